"""Training, loading and evaluating from Python, on a run that takes seconds."""

import numpy as np

import veldt

result = veldt.train("dqn", "CartPole-v1", steps=2_000, seed=1, out="runs/first", overwrite=True, quiet=True)
print(f"{result.progress.updates:,} updates; best evaluation {result.best_mean:.1f} at step {result.best_step:,}")

policy = veldt.load(result.folder)
actions = policy.act(np.zeros((3, 4), np.float32))  # a batch of three observations
print("actions", actions.shape, "return", veldt.evaluate(policy, episodes=5).return_mean)

result = veldt.resume(result.folder, steps=3_000)  # goes on where the run ended
print(f"{result.progress.steps:,} steps")

"""DQN on ALE/Pong-v5, whole loop, next to what its bare pieces allow on the same machine in the same run.

    python bench/pong.py [--rounds 5] [--steps 400]

bare environment: ALE's vector environment with one emulator; bare inference: one forward pass of the Nature network on one stack,
and the argmax; bare update: target forward, online forward and backward, torch's centered RMSProp, on a batch of 32 that is already
in memory. The ideal is 1 / (environment + inference + update / 4) steps per second; Veldt's loop also writes streams, samples the
replay, counts and logs. Rounds are interleaved; medians are printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from ale_py.vector_env import AtariVectorEnv
from torch import nn

from veldt.envs.make import make_env_spec
from veldt.envs.options import EnvOptions
from veldt.runtime.inline import InlineRuntime
from veldt.systems.dqn import DQNConfig, program


def nature(actions: int) -> nn.Sequential:
    """The network of Mnih et al. 2015."""
    return nn.Sequential(
        nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, actions),
    )  # fmt: skip


def bare_environment(steps: int) -> float:
    """Seconds per step."""
    env = AtariVectorEnv("pong", 1, num_threads=1, reward_clipping=False, use_fire_reset=False)
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, 6, (steps, 1))
    started = time.perf_counter()
    for action in actions:
        env.step(action)
    return (time.perf_counter() - started) / steps


def scaled(frames: torch.Tensor) -> torch.Tensor:
    return frames.float().mul_(1 / 255).contiguous(memory_format=torch.channels_last)


def bare_inference(steps: int) -> float:
    """Seconds per forward pass."""
    network, frames = nature(6), np.zeros((1, 4, 84, 84), np.uint8)
    started = time.perf_counter()
    with torch.inference_mode():
        for _ in range(steps):
            network(scaled(torch.from_numpy(frames))).argmax(-1).numpy()
    return (time.perf_counter() - started) / steps


def bare_update(steps: int) -> float:
    """Seconds per update."""
    online, target = nature(6), nature(6)
    optimizer = torch.optim.RMSprop(online.parameters(), lr=2.5e-4, alpha=0.95, eps=0.01, centered=True)
    obs, next_obs = torch.randint(0, 255, (2, 32, 4, 84, 84), dtype=torch.uint8)
    action = torch.randint(0, 6, (32, 1))
    reward, discount = torch.rand(32), torch.full((32,), 0.99)
    started = time.perf_counter()
    for _ in range(steps):
        with torch.no_grad():
            y = reward + discount * target(scaled(next_obs)).amax(1)
        error = online(scaled(obs)).gather(1, action).squeeze(1)
        loss = nn.functional.smooth_l1_loss(error, y, reduction="sum")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (time.perf_counter() - started) / steps


def veldt_loop(steps: int) -> Callable[[], float]:
    """Seconds per agent step of Veldt's DQN, updates included."""
    spec = make_env_spec("ALE/Pong-v5", options=EnvOptions(life_loss=True))
    config = DQNConfig(start_steps=1_000, replay_steps=100_000)
    runtime = InlineRuntime(program(config, spec), seed=0, device="cpu")
    memory = runtime.parts["replay"]

    def run(more: int) -> None:
        goal = memory.inserted_steps + more
        runtime.run(lambda: memory.inserted_steps < goal)

    run(1_200)

    def measure() -> float:
        before, started = memory.inserted_steps, time.perf_counter()
        run(steps)
        return (time.perf_counter() - started) / (memory.inserted_steps - before)

    return measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    ours = veldt_loop(asked.steps)
    pieces: dict[str, Callable[[], float]] = {
        "bare environment": lambda: bare_environment(asked.steps),
        "bare inference": lambda: bare_inference(asked.steps),
        "bare update": lambda: bare_update(asked.steps // 4),
        "veldt, one step": ours,
    }
    rounds = [{name: measure() for name, measure in pieces.items()} for _ in range(asked.rounds)]
    for name in pieces:
        print(f"{name:<18} {1e3 * statistics.median(found[name] for found in rounds):8.3f} ms")
    ideals = [found["bare environment"] + found["bare inference"] + found["bare update"] / 4 for found in rounds]
    ratios = [ideal / found["veldt, one step"] for ideal, found in zip(ideals, rounds, strict=True)]
    print(f"{'ideal, one step':<18} {1e3 * statistics.median(ideals):8.3f} ms = {1 / statistics.median(ideals):,.0f} steps/s")
    print(f"veldt: {1 / statistics.median(found['veldt, one step'] for found in rounds):,.0f} steps/s, "
          f"{statistics.median(ratios):.2f} of the ideal (rounds: {', '.join(f'{ratio:.2f}' for ratio in ratios)})")  # fmt: skip


if __name__ == "__main__":
    main()

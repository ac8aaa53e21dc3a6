"""What a learner adds to the bare update: `python bench/learner.py`.

One update of DQN's objective (batch 32, not double) by `parts.Learner`, which is fed one fixed batch, beside the same
step written out by hand: target forward, online forward, gather, Huber loss, backward, fused Adam. Prints the medians
of rounds in which both take turns, and their ratio.

    mlp      float32 [4], two layers of 256; goal: at most 1.30 of the bare step
    nature   four 84x84 frames and nature's convolutions in channels_last order; goal: at most 1.05

`--profile` prints where the learner's time goes.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from veldt.agents.objectives import QLearning
from veldt.agents.q import QAgent, QNetworkConfig
from veldt.core import Place
from veldt.data import ActionSpec, ArraySpec, Batch, EnvSpec, Transition
from veldt.parts.learner import Learner
from veldt.parts.optimizers import AdamConfig
from veldt.parts.parameters import LocalParameters

BATCH, ACTIONS = 32, 4
GOALS = {"mlp": 1.30, "nature": 1.05}
Update = Callable[[], object]


class OneBatch:
    """A memory that always answers the same batch."""

    def __init__(self, batch: Batch[Transition]) -> None:
        self._batch = batch

    def can_sample(self) -> bool:
        return True

    def sample(self) -> Batch[Transition]:
        return self._batch

    def update(self, keys: np.ndarray, priorities: np.ndarray) -> None:
        pass

    def waiting_for(self) -> str:
        return "nothing"


def env_of(case: str) -> EnvSpec:
    frames = case == "nature"
    observation = ArraySpec((84, 84), "uint8", 0, 255) if frames else ArraySpec((4,), "float32")
    action = ActionSpec("discrete", (), "int64", (ACTIONS,))
    return EnvSpec("Bench", lambda: None, observation, action, frame_stack=4 if frames else 1)


def batch_of(env: EnvSpec) -> Batch[Transition]:
    shape = (BATCH, *env.seen.shape)
    uint8 = env.seen.dtype == "uint8"
    obs = [torch.randint(0, 255, shape, dtype=torch.uint8) if uint8 else torch.randn(shape) for _ in range(2)]
    step = Transition(obs[0], torch.randint(0, ACTIONS, (BATCH,)), torch.randn(BATCH), torch.full((BATCH,), 0.99), obs[1])
    return Batch(step, torch.ones(BATCH), np.arange(BATCH))


def learner(case: str, batch: Batch[Transition]) -> Update:
    network = QNetworkConfig("nature", (512,), False) if case == "nature" else QNetworkConfig("mlp", (256, 256), False)
    make_agent = partial(QAgent, env_of(case), network)
    optimizer = AdamConfig(1e-4, beta1=0.9, beta2=0.999, epsilon=1e-8)
    parameters = LocalParameters(make_agent, optimizer, max_gradient_norm=None, learning_rate=None, place=Place())
    objective = QLearning(double=False, sum_over_batch=False, error_loss="huber", initial_priorities=False)
    return Learner(
        make_agent, objective, target_period_updates=10**9, memory=OneBatch(batch), parameters=parameters, place=Place()
    ).step


def bare_network(case: str) -> nn.Sequential:
    if case == "mlp":
        return nn.Sequential(
            nn.Linear(4, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, ACTIONS)
        )  # fmt: skip
    network = nn.Sequential(
        nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, ACTIONS),
    )  # fmt: skip
    return network.to(memory_format=torch.channels_last)


def bare(case: str, batch: Batch[Transition]) -> Update:
    online, target = bare_network(case), bare_network(case).requires_grad_(False)
    optimizer = torch.optim.Adam(online.parameters(), lr=1e-4, fused=True)
    step = batch.data

    def seen(obs: torch.Tensor) -> torch.Tensor:
        return obs.float().mul_(1 / 255).contiguous(memory_format=torch.channels_last) if case == "nature" else obs

    def update() -> None:
        with torch.no_grad():
            y = step.reward + step.discount * target(seen(step.next_obs)).amax(1)
        taken = online(seen(step.obs)).gather(1, step.action[:, None])[:, 0]
        loss = functional.huber_loss(taken, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return update


def microseconds(update: Update, updates: int) -> float:
    began = time.perf_counter()
    for _ in range(updates):
        update()
    return (time.perf_counter() - began) / updates * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(f"batch {BATCH}, {arguments.threads} threads of torch")
    print(f"{'case':<10}{'bare us':>10}{'veldt us':>10}{'above us':>10}{'ratio':>8}{'goal':>8}")
    for case, goal in GOALS.items():
        batch = batch_of(env_of(case))
        updates = 100 if case == "mlp" else 8
        bare_update, our_update = bare(case, batch), learner(case, batch)
        for update in (bare_update, our_update):
            microseconds(update, updates)
        pairs = [(microseconds(bare_update, updates), microseconds(our_update, updates)) for _ in range(arguments.rounds)]
        plain, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(our / plain for plain, our in pairs)
        print(f"{case:<10}{plain:>10.0f}{ours:>10.0f}{ours - plain:>10.0f}{ratio:>8.2f}{goal:>8.2f}")
        if arguments.profile:
            profile = cProfile.Profile()
            profile.runcall(microseconds, our_update, updates * 10)
            pstats.Stats(profile).sort_stats("tottime").print_stats(20)


if __name__ == "__main__":
    main()

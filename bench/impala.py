"""IMPALA in processes, the whole loop, next to what its bare pieces allow on the same cores in the same run.

    python bench/impala.py [cartpole] [pong] [--rounds 3] [--seconds 10]

cartpole: Gymnasium's numpy vector environment, a network of two layers of 64. pong: ALE's vector environment, which stacks the
frames, the Nature network. Bare environment, bare inference (forward, a sampled action and its log-probability) and bare update
(forward, V-trace, loss, backward, fused Adam, on a batch that is already in memory) run one after the other on one thread. The ideal
is cores / (environment + inference + update) seconds per agent step, as if the work split evenly. Veldt's figure is what the learner
consumed. Rounds are interleaved; medians are printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from ale_py.vector_env import AtariVectorEnv
from torch import nn
from torch.distributions import Categorical

from veldt.envs.make import make_env_spec
from veldt.math.vtrace import vtrace
from veldt.runtime.processes import ProcessRuntime
from veldt.systems.impala import ImpalaConfig, program

WARM_UP_UPDATES = 10


@dataclass(frozen=True)
class Case:
    """An environment, and the sizes that it is run with."""

    env: str
    actors: int
    environments: int
    unroll_steps: int
    batch_size: int
    encoder: str
    hidden: tuple[int, ...]
    goal: float
    steps: int
    updates: int

    @property
    def config(self) -> ImpalaConfig:
        """Veldt's settings."""
        return ImpalaConfig(
            encoder=self.encoder, hidden=self.hidden, actors=self.actors, environments=self.environments,
            unroll_steps=self.unroll_steps, batch_size=self.batch_size, optimizer="adam", learning_rate_updates=None,
        )  # fmt: skip


CASES = {
    "cartpole": Case("CartPole-v1", 1, 256, 20, 256, "mlp", (64, 64), 0.60, 1_000, 30),
    "pong": Case("ALE/Pong-v5", 2, 16, 20, 16, "nature", (512,), 0.90, 30, 1),
}


class Network(nn.Module):
    """Logits and value of a batch of observations."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.frames = case.encoder == "nature"
        body: list[nn.Module] = [
            nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3, 1), nn.ReLU(), nn.Flatten(),
        ] if self.frames else []  # fmt: skip
        width = 3136 if self.frames else 4
        for units in case.hidden:
            body += [nn.Linear(width, units), nn.ReLU()]
            width = units
        self.body = nn.Sequential(*body)
        self.policy, self.value = nn.Linear(width, 6 if self.frames else 2), nn.Linear(width, 1)

    def features(self, obs: torch.Tensor) -> torch.Tensor:
        if self.frames:
            obs = obs.float().mul_(1 / 255).contiguous(memory_format=torch.channels_last)
        out: torch.Tensor = self.body(obs)
        return out


def bare_environment(case: Case) -> float:
    """Seconds per step of one stream."""
    env: Any
    if case.encoder == "nature":
        env = AtariVectorEnv("pong", case.environments, num_threads=1, reward_clipping=False, use_fire_reset=False)
        env.reset(seed=np.arange(case.environments))
    else:
        env = gymnasium.make_vec(case.env, case.environments, vectorization_mode="vector_entry_point")
        env.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, 2, (case.steps, case.environments))
    started = time.perf_counter()
    for action in actions:
        env.step(action)
    return (time.perf_counter() - started) / actions.size


def observations(case: Case, *shape: int) -> torch.Tensor:
    """Of the kind that the network reads."""
    if case.encoder == "nature":
        return torch.randint(0, 255, (*shape, 4, 84, 84), dtype=torch.uint8)
    return torch.randn(*shape, 4)


def bare_inference(case: Case) -> float:
    """Seconds per action of one stream."""
    network, obs = Network(case), observations(case, case.environments)
    started = time.perf_counter()
    with torch.inference_mode():
        for _ in range(case.steps):
            policy = Categorical(logits=network.policy(network.features(obs)), validate_args=False)
            action = policy.sample()
            policy.log_prob(action)
            action.numpy()
    return (time.perf_counter() - started) / (case.steps * case.environments)


def bare_update(case: Case) -> float:
    """Seconds per step that is learned from."""
    network = Network(case)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    steps, batch = case.unroll_steps, case.batch_size
    obs = observations(case, (steps + 1) * batch)
    action = torch.randint(0, 2, (steps, batch))
    behaviour, reward, discount = torch.full((steps, batch), -0.7), torch.rand(steps, batch), torch.ones(steps, batch)
    last = torch.zeros(steps, batch, dtype=torch.bool)
    started = time.perf_counter()
    for _ in range(case.updates):
        features = network.features(obs)
        logits, value = network.policy(features).view(steps + 1, batch, -1), network.value(features).view(steps + 1, batch)
        policy = Categorical(logits=logits[:-1], validate_args=False)
        log_prob = policy.log_prob(action)
        targets = vtrace(
            log_prob.detach() - behaviour, reward, discount, last, value.detach(),
            gamma=0.99, rho_bar=1.0, c_bar=1.0, pg_rho_bar=1.0, trace_lambda=1.0,
        )  # fmt: skip
        error = targets.values - value[:-1]
        loss = (0.25 * error.square() - log_prob * targets.advantages - 0.01 * policy.entropy()).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 40.0)
        optimizer.step()
    return (time.perf_counter() - started) / (case.updates * steps * batch)


def veldt(case: Case, seconds: float) -> tuple[float, dict[str, float]]:
    """Seconds per step that the learner consumed, and the shares of the actors' and the learner's time."""
    runtime = ProcessRuntime(
        program(case.config, make_env_spec(case.env)), seed=0, device="cpu", lockstep=False, stuck_seconds=60
    )  # fmt: skip
    learner, began = runtime.parts["learner"], []

    def more() -> bool:
        if not began:
            if learner.updates >= WARM_UP_UPDATES:
                began.append((time.perf_counter(), learner.updates))
            return True
        return time.perf_counter() - began[0][0] < seconds

    try:
        runtime.run(more)
        spent = time.perf_counter() - began[0][0]
        updates = learner.updates - began[0][1]
        shares = {
            f"first actor: {name}": value for name, value in runtime.parts[runtime.switchboard.crew[0].label].seconds.items()
        }
        shares |= {f"learner: {name}": value for name, value in learner.seconds.items()}
    finally:
        runtime.close()
    return spent / (updates * case.batch_size * case.unroll_steps), shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=list(CASES), metavar="CASE", help=" or ".join(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--parts", action="store_true", help="print where actors and learner spent their time")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for name in asked.cases:
        case = CASES[name]
        pieces: dict[str, Callable[[Case], float]] = {
            "bare environment": bare_environment, "bare inference": bare_inference, "bare update": bare_update,
        }  # fmt: skip
        rounds = []
        for _ in range(asked.rounds):
            found = {piece: measure(case) for piece, measure in pieces.items()}
            found["veldt"], shares = veldt(case, asked.seconds)
            rounds.append(found)
        print(
            f"{name}: {case.actors} actors x {case.environments} environments, batches of {case.batch_size} x {case.unroll_steps}"
        )
        for piece in pieces:
            print(f"{piece:<18} {1e6 * statistics.median(found[piece] for found in rounds):9.2f} us per agent step")
        ideals = [cores / sum(found[piece] for piece in pieces) for found in rounds]
        ours = [1 / found["veldt"] for found in rounds]
        ratios = [our / ideal for our, ideal in zip(ours, ideals, strict=True)]
        print(f"ideal of {cores} cores   {statistics.median(ideals):9,.0f} steps/s")
        print(f"veldt              {statistics.median(ours):9,.0f} steps/s, {statistics.median(ratios):.2f} of the ideal, "
              f"goal {case.goal} (rounds: {', '.join(f'{ratio:.2f}' for ratio in ratios)})")  # fmt: skip
        if asked.parts:
            print("\n".join(f"  {part:<28} {value:6.2f} s" for part, value in shares.items()))


if __name__ == "__main__":
    main()

"""What stepping costs above the bare environments: `python bench/env_stepping.py`.

Prints, per case, the median microseconds of one vector step bare and through Veldt, the difference and the ratio.
Bare is gymnasium's own vector step, or the loop of `env.step` calls with a reset where an episode ended.
The two are measured in turns, so that a busy machine disturbs both alike. Goal: 10 microseconds above bare.
Measured on a shared two-core EPYC: 10 (vector B=8), 16 (vector B=64), 5 (loop B=1), 21 (loop B=8: 2.6 an environment,
of which half is copying the observation and checking that it is finite). Random actions, so every 22nd step ends an
episode.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import gymnasium
import numpy as np

from veldt.envs.classic import ClassicEnvironments
from veldt.envs.create import FromRegistry
from veldt.envs.families import Family
from veldt.envs.loop import LoopEnvironments
from veldt.envs.spaces import observation_spec

ENV = "CartPole-v1"
STEPS, ROUNDS = 300, 15
Step = Callable[[np.ndarray], object]


def bare_vector(streams: int) -> Step:
    env = gymnasium.make_vec(ENV, streams, vectorization_mode="vector_entry_point")
    env.reset(seed=0)
    return env.step


def our_vector(streams: int) -> Step:
    env = ClassicEnvironments(ENV, streams, np.random.SeedSequence(0))
    env.reset()
    return env.step


def bare_loop(streams: int) -> Step:
    envs = [FromRegistry(ENV)() for _ in range(streams)]
    over = [True] * streams

    def step(actions: np.ndarray) -> None:
        for stream, action in enumerate(actions.tolist()):
            if over[stream]:
                envs[stream].reset(seed=stream)
                over[stream] = False
            else:
                _, _, terminated, truncated, _ = envs[stream].step(action)
                over[stream] = terminated or truncated

    return step


def our_loop(streams: int) -> Step:
    spec = observation_spec(FromRegistry(ENV)().observation_space)
    env = LoopEnvironments(FromRegistry(ENV), Family(), spec, streams, np.random.SeedSequence(0))
    env.reset()
    return env.step


def microseconds(step: Step, actions: np.ndarray) -> float:
    began = time.perf_counter()
    for action in actions:
        step(action)
    return (time.perf_counter() - began) / len(actions) * 1e6


def main() -> None:
    random = np.random.default_rng(0)
    print(f"{'case':<16}{'bare us':>10}{'veldt us':>10}{'above us':>10}{'ratio':>8}")
    cases = [("vector", bare_vector, our_vector, 8), ("vector", bare_vector, our_vector, 64)]
    cases += [("loop", bare_loop, our_loop, 1), ("loop", bare_loop, our_loop, 8)]
    for name, make_bare, make_ours, streams in cases:
        bare, ours = make_bare(streams), make_ours(streams)
        pairs = []
        for _ in range(ROUNDS):
            actions = random.integers(0, 2, (STEPS, streams))
            pairs.append((microseconds(bare, actions), microseconds(ours, actions)))
        bare_us, ours_us = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = ours_us / bare_us
        print(f"{name} B={streams:<9}{bare_us:>10.1f}{ours_us:>10.1f}{ours_us - bare_us:>10.1f}{ratio:>8.2f}")


if __name__ == "__main__":
    main()

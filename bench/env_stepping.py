"""What stepping costs above the bare environments: `python bench/env_stepping.py`.

Prints, per case, the median microseconds of one vector step bare and through Veldt, the difference and the ratio.
vector: bare is Gymnasium's own numpy vector environment. sync: bare is Gymnasium's SyncVectorEnv, ours the loop that does its work.
loop: bare is nothing but the calls of `env.step`, with a reset where an episode ended.
A hand-written controller keeps the pole up, as a policy that learns does (episodes of several hundred steps); "random" takes
random actions instead, so that every 22nd step ends an episode. The two sides take turns, so that a busy machine disturbs both
alike. Goal: 10 microseconds above Gymnasium's own.
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
Step = Callable[[np.ndarray], np.ndarray]
"""Actions [B] to observations [B, 4]."""


def bare_vector(streams: int) -> Step:
    env = gymnasium.make_vec(ENV, streams, vectorization_mode="vector_entry_point")
    env.reset(seed=0)
    return lambda actions: env.step(actions)[0]


def bare_sync(streams: int) -> Step:
    env = gymnasium.vector.SyncVectorEnv([FromRegistry(ENV)] * streams)
    env.reset(seed=0)
    return lambda actions: env.step(actions)[0]


def our_vector(streams: int) -> Step:
    env = ClassicEnvironments(ENV, streams, np.random.SeedSequence(0))
    env.reset()
    return lambda actions: env.step(actions).obs


def bare_loop(streams: int) -> Step:
    envs = [FromRegistry(ENV)() for _ in range(streams)]
    over = [True] * streams
    seen = np.zeros((streams, 4), np.float32)

    def step(actions: np.ndarray) -> np.ndarray:
        for stream, action in enumerate(actions.tolist()):
            if over[stream]:
                seen[stream], _ = envs[stream].reset(seed=stream)
                over[stream] = False
            else:
                seen[stream], _, terminated, truncated, _ = envs[stream].step(action)
                over[stream] = terminated or truncated
        return seen

    return step


def our_loop(streams: int) -> Step:
    spec = observation_spec(FromRegistry(ENV)().observation_space)
    env = LoopEnvironments(FromRegistry(ENV), Family(), spec, streams, np.random.SeedSequence(0))
    env.reset()
    return lambda actions: env.step(actions).obs


def microseconds(step: Step, actions: np.ndarray, balanced: bool) -> float:
    """Of one step, the controller's own time included on both sides."""
    began = time.perf_counter()
    action = actions[0]
    for drawn in actions:
        seen = step(action)
        action = (seen[:, 2] + seen[:, 3] > 0).astype(np.int64) if balanced else drawn
    return (time.perf_counter() - began) / len(actions) * 1e6


def main() -> None:
    random = np.random.default_rng(0)
    print(f"{'case':<22}{'bare us':>10}{'veldt us':>10}{'above us':>10}{'ratio':>8}")
    cases = [("vector", bare_vector, our_vector, 8, True), ("vector", bare_vector, our_vector, 64, True)]
    cases += [("vector, random", bare_vector, our_vector, 8, False), ("vector, random", bare_vector, our_vector, 64, False)]
    cases += [("sync", bare_sync, our_loop, 1, True), ("sync", bare_sync, our_loop, 8, True)]
    cases += [("loop", bare_loop, our_loop, 1, True), ("loop", bare_loop, our_loop, 8, True)]
    for name, make_bare, make_ours, streams, balanced in cases:
        bare, ours = make_bare(streams), make_ours(streams)
        pairs = []
        for _ in range(ROUNDS):
            actions = random.integers(0, 2, (STEPS, streams))
            pairs.append((microseconds(bare, actions, balanced), microseconds(ours, actions, balanced)))
        bare_us, ours_us = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = ours_us / bare_us
        print(f"{f'{name} B={streams}':<22}{bare_us:>10.1f}{ours_us:>10.1f}{ours_us - bare_us:>10.1f}{ratio:>8.2f}")


if __name__ == "__main__":
    main()

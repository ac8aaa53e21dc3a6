"""How long systems train until they hold CartPole-v1 up, next to Stable-Baselines3 with its own tuned settings.

    python bench/time_to_score.py [CONTENDER ...] [--seeds 3]

Two times, of training alone; importing, building and starting processes are reported apart:
greedy     when the weights were there of the first evaluation, of 20 episodes without exploration, whose mean return is 475;
training   until the mean of the last 100 training episodes is 475, which is harder for a policy that explores.
The clock stops while a policy is evaluated in the process that trains: with Stable-Baselines3, and with Veldt inline. Evaluations in
a process of their own, beside the training, take from its cores, and nothing is subtracted for that. Contenders take turns, seed by
seed. `a3c-1`, `a3c-2`, `a3c-4` differ in their workers, `gorila-1` and `gorila-2` in their bundles. Settings of Stable-Baselines3 are
those of rl-baselines3-zoo (hyperparams/a2c.yml and ppo.yml, CartPole-v1), without its unused reward normalisation.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from veldt.runs.metrics import EVAL_RETURN, TRAIN_RETURN, Series, read

ENV, SCORE, EPISODES = "CartPole-v1", 475.0, 20
PERIOD_STEPS = 2_500


class Times(NamedTuple):
    """Seconds before training, and of training until each score; infinite where it was not reached."""

    start_up: float
    greedy: float
    training: float


def veldt(system: str, seed: int, **values: Any) -> Times:
    """One run of Veldt's, in a process of its own."""
    return _in_process("--veldt", json.dumps({"system": system, "seed": seed, **values}))


def run_veldt(system: str, seed: int, **values: Any) -> None:
    """Trains, and prints its times as JSON."""
    import veldt as library

    clock: list[tuple[int, float]] = []
    started = math.nan

    def watch(steps: int, runtime: Any) -> None:
        nonlocal started
        evaluator, now = runtime.parts["evaluator"], time.perf_counter()
        elsewhere = hasattr(evaluator, "process")  # beside the training, on the same cores: that time counts
        if steps and math.isnan(started):
            started = now
        clock.append((steps, now - started - (0.0 if elsewhere else evaluator.seconds["evaluation"])))

    with tempfile.TemporaryDirectory() as folder:
        library.train(
            system, ENV, seed=seed, out=folder, overwrite=True, quiet=True, on_round=watch, log_every_steps=500,
            eval_every_steps=PERIOD_STEPS, eval_episodes=EPISODES, **values,
        )  # fmt: skip
        metrics = read(Path(folder) / "metrics.csv")
    steps, seconds = np.array(clock).T

    def at(series: Series) -> float:
        reached = np.flatnonzero(series.values >= SCORE)
        return float(seconds[np.searchsorted(steps, series.steps[reached[0]])]) if len(reached) else math.inf

    whole = time.perf_counter() - started
    print(json.dumps({"greedy": at(metrics[EVAL_RETURN]), "training": at(metrics[TRAIN_RETURN]), "all": whole}))


def _in_process(*arguments: str) -> Times:
    """What this file, called with `arguments`, answers."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE)
    answer = json.loads(done.stdout.splitlines()[-1])
    return Times(time.perf_counter() - began - answer["all"], answer["greedy"], answer["training"])


def stable_baselines3(algorithm: str, seed: int) -> Times:
    """One run of Stable-Baselines3's, in a process of its own, as importing it is part of its start."""
    return _in_process("--peer", algorithm, "--seed", str(seed))


def run_peer(algorithm: str, seed: int) -> None:
    """Trains, and prints its times as JSON."""
    import torch
    from stable_baselines3 import A2C, PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    torch.set_num_threads(1)
    env = make_vec_env(ENV, n_envs=8, seed=seed)
    evaluated = make_vec_env(ENV, n_envs=1, seed=1_000 + seed)
    model: Any
    if algorithm == "a2c":
        model, steps = A2C("MlpPolicy", env, ent_coef=0.0, seed=seed, device="cpu"), 500_000
    else:
        model, steps = PPO(
            "MlpPolicy", env, n_steps=32, batch_size=256, gae_lambda=0.8, gamma=0.98, n_epochs=20, ent_coef=0.0,
            learning_rate=lambda left: 1e-3 * left, clip_range=lambda left: 0.2 * left, seed=seed, device="cpu",
        ), 100_000  # fmt: skip
    started, paused = time.perf_counter(), 0.0
    reached = {"greedy": math.inf, "training": math.inf}
    returns: deque[float] = deque(maxlen=100)

    class Watch(BaseCallback):
        """Looks at the returns at every step, and evaluates now and then."""

        evaluated_at = 0

        def _on_step(self) -> bool:
            nonlocal paused
            returns.extend(info["episode"]["r"] for info in self.locals["infos"] if "episode" in info)
            now = time.perf_counter() - started - paused
            if len(returns) == 100 and sum(returns) / 100 >= SCORE:
                reached["training"] = min(reached["training"], now)
            if self.num_timesteps - self.evaluated_at >= PERIOD_STEPS and math.isinf(reached["greedy"]):
                self.evaluated_at = self.num_timesteps
                mean, _ = evaluate_policy(model, evaluated, EPISODES, deterministic=True)
                if mean >= SCORE:
                    reached["greedy"] = now
                paused = time.perf_counter() - started - now
            return any(map(math.isinf, reached.values()))

    model.learn(steps, callback=Watch())
    print(json.dumps({**reached, "all": time.perf_counter() - started}))


INLINE = {"runtime": "inline"}
CONTENDERS: dict[str, Callable[[int], Times]] = {
    "veldt a3c": partial(veldt, "a3c"),
    "veldt a3c inline": partial(veldt, "a3c", **INLINE),
    "veldt impala": partial(veldt, "impala"),
    "veldt impala inline": partial(veldt, "impala", **INLINE),
    "sb3 a2c": partial(stable_baselines3, "a2c"),
    "sb3 ppo": partial(stable_baselines3, "ppo"),
    **{f"veldt a3c-{workers}": partial(veldt, "a3c", workers=workers) for workers in (1, 2, 4)},
    **{f"veldt gorila-{bundles}": partial(veldt, "gorila", bundles=bundles) for bundles in (1, 2)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contenders", nargs="*", metavar="CONTENDER", help=", ".join(CONTENDERS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--veldt", type=json.loads, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.veldt:
        run_veldt(**asked.veldt)
        return
    if asked.peer:
        run_peer(asked.peer, asked.seed)
        return
    found: dict[str, list[Times]] = {name: [] for name in asked.contenders or CONTENDERS}
    for seed in range(1, asked.seeds + 1):
        for name, times in found.items():
            times.append(CONTENDERS[name](seed))
            print(
                f"  {name}, seed {seed}: " + ", ".join(f"{what} {value:.1f} s" for what, value in times[-1]._asdict().items())
            )
    print(f"| seconds, median of {asked.seeds} seeds | start-up | greedy >= {SCORE:.0f} | training mean >= {SCORE:.0f} |")
    print("| --- | --- | --- | --- |")
    for name, times in found.items():
        print(f"| {name} | " + " | ".join(f"{statistics.median(column):.1f}" for column in zip(*times, strict=True)) + " |")


if __name__ == "__main__":
    main()

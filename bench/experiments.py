"""The experiments behind docs/results.md, as data: which commands, how many seeds, which score, and what stands side by side."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "learn"
RESULTS = ROOT / "docs" / "results"
LAST = 3
"""Evaluations that are averaged where systems are compared: a single one, of 20 episodes, is too much a matter of luck."""


@dataclass(frozen=True)
class Experiment:
    """The same command with several seeds, and the score it has to reach."""

    name: str
    system: str
    env: str
    seeds: int
    goal: str = ""
    flags: tuple[str, ...] = ()

    def command(self, seed: int) -> list[str]:
        """The command of one seed."""
        return ["veldt", "train", self.system, self.env, *self.flags, "--seed", str(seed), "--out", self.folder(seed)]

    def folder(self, seed: int) -> str:
        """The run folder of one seed, below the project."""
        return f"runs/learn/{self.name}-{seed}"

    def data(self, seed: int) -> Path:
        """Where what one seed reached is kept."""
        return RESULTS / "data" / f"{self.name}-{seed}.json"

    def found(self) -> list[Found]:
        """What is kept of all seeds."""
        kept = (self.data(seed) for seed in range(1, self.seeds + 1))
        return [Found(**json.loads(path.read_text())) for path in kept if path.is_file()]


@dataclass(frozen=True)
class Found:
    """What one run reached.

    curve: training returns, the mean of 100 episodes each. greedy: evaluations. fresh_return: new episodes of the best policy.
    late_metrics: the means of some metrics over the second half of the run.
    """

    seed: int
    preset: str
    steps: int
    wall_seconds: float
    train_return: float
    fresh_return: float
    policy_step: int
    curve_steps: list[int]
    curve_wall_seconds: list[float]
    curve_returns: list[float]
    greedy_steps: list[int]
    greedy_wall_seconds: list[float]
    greedy_returns: list[float]
    late_metrics: dict[str, float]
    made_with: str

    def greedy_at(self, wall_seconds: float) -> float:
        """Mean of the last `LAST` greedy evaluations that were there after so much wall time."""
        made = np.searchsorted(self.greedy_wall_seconds, wall_seconds, side="right")
        return float(np.mean(self.greedy_returns[max(0, made - LAST) : made])) if made else float("nan")


MINATAR = {"breakout": 3, "asterix": 3, "freeway": 1, "seaquest": 1, "space-invaders": 1}
"""Seeds that DQN and Ape-X are run with on each game."""


def minatar(system: str, seeds: dict[str, int], steps: int = 1_000_000) -> tuple[Experiment, ...]:
    """A system on MinAtar's games, with so many seeds each."""
    ids = {name: f"MinAtar/{''.join(word.title() for word in name.split('-'))}-v1" for name in seeds}
    return tuple(
        Experiment(minatar_name(system, name), system, ids[name], count, flags=("--steps", str(steps)),
                   goal="last 100 training episodes >= 8" if (system, name) == ("dqn", "breakout") else "")
        for name, count in seeds.items()
    )  # fmt: skip


def minatar_name(system: str, game: str) -> str:
    """What the experiment of a system on a game is called."""
    return f"minatar-{game}" if system == "dqn" else f"{system}-minatar-{game}"


EXPERIMENTS = (
    Experiment("cartpole", "dqn", "CartPole-v1", 5, "20 fresh episodes >= 475, at most 50,000 steps, under 60 s",
               ("--steps", "50000")),
    Experiment("apex-cartpole", "apex", "CartPole-v1", 5, "20 fresh episodes >= 475, in about a minute"),
    *(Experiment(f"{system}-cartpole", system, "CartPole-v1", 5, "20 fresh episodes >= 475")
      for system in ("a3c", "impala", "gorila", "r2d2")),
    Experiment("apex-pendulum", "apex-dpg", "Pendulum-v1", 3, "20 fresh episodes >= -200, under 2 minutes"),
    Experiment("apex-halfcheetah", "apex-dpg", "HalfCheetah-v5", 1, "20 fresh episodes >= 3000", ("--steps", "1000000")),
    *minatar("dqn", MINATAR),
    *minatar("apex", MINATAR),
    *minatar("gorila", {"breakout": 1, "asterix": 1}),
    *minatar("impala", dict.fromkeys(MINATAR, 1), 5_000_000),
)  # fmt: skip
LAGS = (0, 10, 100)
CORRECTIONS = {"vtrace": "V-trace", "one_step": "one-step ratio", "none": "no correction"}
EXACTLY_BEHIND = ("--runtime", "inline", "--actors", "1", "--environments", "8", "--batch-size", "8", "--queue-unrolls", "1")
"""All that is learned from was acted with weights of exactly the forced lag."""

ABLATION = {
    (lag, correction): Experiment(
        f"vtrace-{lag}-{correction}", "impala", "CartPole-v1", 3,
        flags=(*EXACTLY_BEHIND, "--forced-lag-updates", str(lag), "--correction", correction),
    )
    for lag in LAGS
    for correction in CORRECTIONS
}  # fmt: skip
"""What V-trace is for (Espeholt et al. 2018, section 5.2.2): learning from weights of so many updates ago."""

T_MAZE = "veldt.envs.t_maze:t_maze"
MASKED = "veldt.envs.masked:masked_cartpole"
LSTM = ("--lstm-units", "64")
UNROLLED = ("--preset", "cartpole", "--unroll-steps", "40", "--entropy-factor", "0.01", "--steps", "300000")

MEMORY = {
    "T-maze of 20 steps": {
        "A3C": Experiment("a3c-t-maze", "a3c", f"{T_MAZE}_20", 3, flags=UNROLLED),
        "A3C with LSTM": Experiment("a3c-lstm-t-maze", "a3c", f"{T_MAZE}_20", 3, flags=(*UNROLLED, *LSTM)),
        "IMPALA": Experiment("impala-t-maze", "impala", f"{T_MAZE}_20", 3, flags=UNROLLED),
        "IMPALA with LSTM": Experiment("impala-lstm-t-maze", "impala", f"{T_MAZE}_20", 3, flags=(*UNROLLED, *LSTM)),
    },
    "T-maze of 50 steps": {
        "Ape-X": Experiment("apex-t-maze", "apex", f"{T_MAZE}_50", 3, flags=("--preset", "cartpole", "--steps", "100000")),
        "R2D2": Experiment("r2d2-t-maze", "r2d2", f"{T_MAZE}_50", 3, flags=("--steps", "100000")),
    },
    "CartPole-v1 without velocities": {
        "Ape-X": Experiment("apex-masked-cartpole", "apex", MASKED, 3, flags=("--preset", "cartpole")),
        "R2D2": Experiment("r2d2-masked-cartpole", "r2d2", MASKED, 5),
    },
    "MiniGrid-MemoryS7-v0": {
        "Ape-X": Experiment(
            "apex-memory", "apex", "MiniGrid-MemoryS7-v0", 3, flags=("--preset", "minatar", "--steps", "300000")
        ),
        "R2D2": Experiment("r2d2-memory", "r2d2", "MiniGrid-MemoryS7-v0", 3),
    },
}
"""Problems that ask for a memory: who has one, and who has none."""

STATES = {
    "zero": Experiment("states-zero", "r2d2", MASKED, 3, flags=("--initial-state", "zero", "--burn-in-steps", "0")),
    "zero, burn-in": Experiment("states-zero-burn-in", "r2d2", MASKED, 3, flags=("--initial-state", "zero")),
    "stored": Experiment("states-stored", "r2d2", MASKED, 3, flags=("--burn-in-steps", "0")),
    "stored, burn-in": Experiment("r2d2-masked-cartpole", "r2d2", MASKED, 5),
}
"""What the recurrent state of a sequence begins with (Kapturowski et al. 2019, section 3)."""

REMEMBERING = tuple({one.name: one for group in (*MEMORY.values(), STATES) for one in group.values()}.values())

BY_NAME = {experiment.name: experiment for experiment in (*EXPERIMENTS, *ABLATION.values(), *REMEMBERING)}


@dataclass(frozen=True)
class Comparison:
    """Several experiments on one environment, in one picture; compared at the time when `until` had ended, a run of which is there."""

    name: str
    experiments: tuple[str, ...]
    until: str


COMPARISONS = (
    Comparison(
        "systems-cartpole",
        ("cartpole", "apex-cartpole", "a3c-cartpole", "impala-cartpole", "gorila-cartpole", "r2d2-cartpole"),
        until="impala-cartpole",
    ),
    *(
        Comparison(
            f"systems-minatar-{game}",
            tuple(name for one in ("dqn", "apex", "gorila", "impala") if (name := minatar_name(one, game)) in BY_NAME),
            until=minatar_name("apex", game),
        )
        for game in MINATAR
    ),
)

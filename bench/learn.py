"""The learning runs behind docs/results.md, which this script writes: `make learn`, or `python bench/learn.py --only cartpole`.

Every run is the command that the table shows, in a process of its own, `--jobs` at a time. A run that is finished in
`runs/learn/` is not made again; `--anew` makes all of them again. What the script did not run keeps its rows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import yaml

import veldt
from veldt.runs.metrics import TRAIN_RETURN, read
from veldt.runs.progress import duration

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "learn"
RESULTS = ROOT / "docs" / "results"
EPISODES = 20


@dataclass(frozen=True)
class Experiment:
    """The same command with several seeds, and the score it has to reach."""

    name: str
    system: str
    env: str
    seeds: int
    goal: str
    flags: tuple[str, ...] = ()

    def command(self, seed: int) -> list[str]:
        """The command of one seed."""
        out = f"runs/learn/{self.name}-{seed}"
        return ["veldt", "train", self.system, self.env, *self.flags, "--seed", str(seed), "--out", out]


EXPERIMENTS = (
    Experiment("cartpole", "dqn", "CartPole-v1", 5, "20 fresh episodes >= 475, at most 50,000 steps, under 60 s",
               ("--steps", "50000")),
    Experiment("minatar-breakout", "dqn", "MinAtar/Breakout-v1", 3, "last 100 training episodes >= 8",
               ("--steps", "1000000")),
    Experiment("apex-cartpole", "apex", "CartPole-v1", 5, "20 fresh episodes >= 475, in about a minute"),
    Experiment("apex-pendulum", "apex-dpg", "Pendulum-v1", 3, "20 fresh episodes >= -200, under 2 minutes"),
)  # fmt: skip


def run(experiment: Experiment, seed: int, anew: bool) -> None:
    """Makes one run, unless it is there."""
    folder = RUNS / f"{experiment.name}-{seed}"
    if not anew and _finished(folder):
        return
    command = experiment.command(seed)
    print(" ".join(command), flush=True)
    arguments = [sys.executable, "-m", "veldt.cli", *command[1:], "--overwrite", "--quiet"]
    subprocess.run(arguments, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def _finished(folder: Path) -> bool:
    status = folder / "status.json"
    return status.is_file() and json.loads(status.read_text())["state"] == "finished"


def row(experiment: Experiment, seed: int) -> dict[str, object]:
    """What one run reached."""
    folder = RUNS / f"{experiment.name}-{seed}"
    train = read(folder / "metrics.csv")[TRAIN_RETURN]
    fresh = veldt.evaluate(folder, EPISODES, seed=1000 + seed)
    return {
        "seed": seed,
        "steps": int(train.steps[-1]),
        "wall": duration(float(train.wall_seconds[-1])),
        "train": float(train.values[-1]),
        "fresh": fresh.return_mean,
        "policy_step": fresh.policy_step,
    }


def draw(experiment: Experiment) -> None:
    """Training returns of all seeds, by steps and by wall time."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True, layout="constrained")
    for seed in range(1, experiment.seeds + 1):
        series = read(RUNS / f"{experiment.name}-{seed}" / "metrics.csv")[TRAIN_RETURN]
        axes[0].plot(series.steps, series.values, label=f"seed {seed}", linewidth=1)
        axes[1].plot(np.asarray(series.wall_seconds) / 60, series.values, linewidth=1)
    axes[0].set(xlabel="agent steps", ylabel="return, mean of 100 episodes")
    axes[1].set(xlabel="wall time (minutes)")
    axes[0].legend(frameon=False)
    figure.suptitle(f"{experiment.system} on {experiment.env}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    figure.savefig(RESULTS / f"{experiment.name}.png", dpi=110)
    plt.close(figure)


def section(experiment: Experiment) -> str:
    """The experiment's part of the page."""
    draw(experiment)
    lines = [
        f"## {experiment.system} on {experiment.env}",
        "",
        f"Goal: {experiment.goal}. The first of the runs: `{' '.join(experiment.command(1))}`",
        "",
        f"| seed | steps | wall time | last 100 training episodes | best policy, {EPISODES} fresh episodes | kept at step |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for seed in range(1, experiment.seeds + 1):
        found = row(experiment, seed)
        lines.append(
            f"| {seed} | {found['steps']:,} | {found['wall']} | {found['train']:.2f} | {found['fresh']:.2f} "
            f"| {found['policy_step']:,} |"
        )
    config = yaml.safe_load((RUNS / f"{experiment.name}-1" / "config.yaml").read_text())
    versions = json.loads((RUNS / f"{experiment.name}-1" / "versions.json").read_text())
    lines += [
        "",
        f"![Return over steps and over wall time](results/{experiment.name}.png)",
        "",
        f"Preset `{config['preset']}`; torch {versions['torch']}, Python {versions['python']}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=[experiment.name for experiment in EXPERIMENTS])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--anew", action="store_true")
    asked = parser.parse_args()
    chosen = [experiment for experiment in EXPERIMENTS if not asked.only or experiment.name in asked.only]
    with ThreadPoolExecutor(asked.jobs) as pool:
        jobs = [pool.submit(run, one, seed, asked.anew) for one in chosen for seed in range(1, one.seeds + 1)]
        for job in jobs:
            job.result()
    there = [one for one in EXPERIMENTS if all(_finished(RUNS / f"{one.name}-{seed + 1}") for seed in range(one.seeds))]
    head = "# Results\n\nWritten by `bench/learn.py` (`make learn`) from the run folders; two cores, no GPU.\n\n"
    (ROOT / "docs" / "results.md").write_text(head + "\n".join(section(experiment) for experiment in there))


if __name__ == "__main__":
    main()

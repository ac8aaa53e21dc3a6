"""The learning runs behind docs/results.md, which this script writes: `make learn`, or `python bench/learn.py --only cartpole`.

Every run is the command that the page shows, in a process of its own, `--jobs` at a time. What a run reached, and its curve, is
kept in `docs/results/data`, so that the page can be made of runs of several days and machines. A run that is kept there is not
made again; `--anew` makes it again. Runs that are missing are named as missing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import matplotlib
import numpy as np
import yaml
from experiments import (
    ABLATION,
    BY_NAME,
    COMPARISONS,
    CORRECTIONS,
    EXPERIMENTS,
    LAGS,
    LAST,
    MEMORY,
    RESULTS,
    ROOT,
    STATES,
    Comparison,
    Experiment,
    Found,
)  # fmt: skip

import veldt
from veldt.runs.metrics import EVAL_RETURN, TRAIN_RETURN, Series, read
from veldt.runs.progress import duration

matplotlib.use("Agg")
from matplotlib import pyplot as plt

EPISODES = 20
CURVE_POINTS = 200
LATE_METRICS = ("delta_q_first", "delta_q_last", "policy_lag_updates")


def run(experiment: Experiment, seed: int, anew: bool) -> None:
    """Makes one run and keeps what it reached, unless that is there."""
    if experiment.data(seed).is_file() and not anew:
        return
    folder = ROOT / experiment.folder(seed)
    if anew or not _finished(folder):
        command = experiment.command(seed)
        print(" ".join(command), flush=True)
        arguments = [sys.executable, "-m", "veldt.cli", *command[1:], "--overwrite", "--quiet"]
        subprocess.run(arguments, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    experiment.data(seed).parent.mkdir(parents=True, exist_ok=True)
    experiment.data(seed).write_text(json.dumps(asdict(look(folder, seed))) + "\n")


def _finished(folder: Path) -> bool:
    status = folder / "status.json"
    return status.is_file() and json.loads(status.read_text())["state"] == "finished"


def look(folder: Path, seed: int) -> Found:
    """What the run in `folder` reached."""
    metrics = read(folder / "metrics.csv")
    train, greedy = metrics[TRAIN_RETURN], metrics[EVAL_RETURN]
    fresh = veldt.evaluate(folder, EPISODES, seed=1000 + seed)
    versions = json.loads((folder / "versions.json").read_text())
    kept = np.unique(np.linspace(0, len(train.steps) - 1, CURVE_POINTS).round().astype(int))
    return Found(
        seed=seed,
        preset=yaml.safe_load((folder / "config.yaml").read_text())["preset"],
        steps=int(train.steps[-1]),
        wall_seconds=round(float(train.wall_seconds[-1]), 1),
        train_return=round(float(train.values[-1]), 3),
        fresh_return=round(fresh.return_mean, 3),
        policy_step=fresh.policy_step,
        curve_steps=[int(train.steps[index]) for index in kept],
        curve_wall_seconds=[round(float(train.wall_seconds[index]), 1) for index in kept],
        curve_returns=[round(float(train.values[index]), 3) for index in kept],
        greedy_steps=greedy.steps.astype(int).tolist(),
        greedy_wall_seconds=np.round(greedy.wall_seconds, 1).tolist(),
        greedy_returns=np.round(greedy.values, 3).tolist(),
        late_metrics={name: round(float(late(metrics[name])), 5) for name in LATE_METRICS if name in metrics},
        made_with=f"torch {versions['torch']}, Python {versions['python']}, {os.cpu_count()} cores, {platform.machine()}",
    )


def late(series: Series) -> float:
    """The mean over the second half of the run."""
    return float(np.nanmean(series.values[series.steps > series.steps[-1] / 2]))


def draw(name: str, title: str, groups: dict[str, list[Found]], curve: str) -> None:
    """The `curve` (`curve` or `greedy`) of each run by steps and by wall time; a colour for each group, or for each run of a single one."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True, layout="constrained")
    for number, (label, runs) in enumerate(groups.items()):
        for found in runs:
            steps, wall, returns = (getattr(found, f"{curve}_{what}") for what in ("steps", "wall_seconds", "returns"))
            one = len(groups) == 1
            color = f"C{found.seed - 1 if one else number}"
            name_of_curve = f"seed {found.seed}" if one else label if found is runs[0] else None
            axes[0].plot(steps, returns, color=color, linewidth=1, label=name_of_curve)
            axes[1].plot(np.asarray(wall) / 60, returns, color=color, linewidth=1)
    kind = "mean of the last 100 training episodes" if curve == "curve" else f"greedy, mean of {EPISODES} episodes"
    axes[0].set(xlabel="agent steps", ylabel=f"return\n{kind}")
    axes[1].set(xlabel="wall time (minutes)")
    axes[0].legend(frameon=False)
    figure.suptitle(title)
    RESULTS.mkdir(parents=True, exist_ok=True)
    figure.savefig(RESULTS / f"{name}.png", dpi=110)
    plt.close(figure)


def section(experiment: Experiment, runs: list[Found]) -> Iterator[str]:
    """The experiment's part of the page."""
    draw(experiment.name, f"{experiment.system} on {experiment.env}", {experiment.system: runs}, "curve")
    goal = f"Goal: {experiment.goal}. " if experiment.goal else ""
    yield f"## {experiment.system} on {experiment.env}\n"
    yield f"{goal}The first of the runs: `{' '.join(experiment.command(1))}`\n"
    yield f"| seed | steps | wall time | last 100 training episodes | best policy, {EPISODES} fresh episodes | kept at step |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for found in runs:
        yield (f"| {found.seed} | {found.steps:,} | {duration(found.wall_seconds)} | {found.train_return:.2f} "
               f"| {found.fresh_return:.2f} | {found.policy_step:,} |")  # fmt: skip
    missing = sorted(set(range(1, experiment.seeds + 1)) - {found.seed for found in runs})
    if missing:
        yield f"\nNot run yet: seed {', '.join(map(str, missing))}."
    yield f"\n![Return over steps and over wall time](results/{experiment.name}.png)\n"
    yield f"Preset `{runs[0].preset}`; {runs[0].made_with}.\n"


def comparison(one: Comparison) -> Iterator[str]:
    """Systems side by side: at the end, and at equal wall time."""
    groups = {BY_NAME[name].system: BY_NAME[name].found() for name in one.experiments if BY_NAME[name].found()}
    until = BY_NAME[one.until].found()
    if len(groups) < 2 or not until:
        return
    env = BY_NAME[one.experiments[0]].env
    draw(one.name, f"Systems on {env}", groups, "greedy")
    equal = float(np.mean([found.wall_seconds for found in until]))
    yield f"## Systems side by side on {env}\n"
    yield f"| system | seeds | steps | wall time | greedy return at the end | greedy return after {duration(equal)} | training return |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for system, runs in groups.items():
        wall, steps, train = (
            np.mean([getattr(run, name) for run in runs]) for name in ("wall_seconds", "steps", "train_return")
        )
        end, then = (_mean_or_dash([run.greedy_at(seconds) for run in runs]) for seconds in (np.inf, equal))
        yield f"| {system} | {len(runs)} | {steps:,.0f} | {duration(wall)} | {end} | {then} | {train:.2f} |"
    yield (f"\nMeans over the seeds; greedy: the last {LAST} evaluations that were there, {EPISODES} episodes each, without exploration. "
           "In training each system explores in its own way.\n")  # fmt: skip
    yield f"![Return over steps and over wall time](results/{one.name}.png)\n"


def _mean_or_dash(values: list[float]) -> str:
    """The mean; a dash if one of the runs had not been evaluated yet."""
    return f"{np.mean(values):.2f}" if np.isfinite(values).all() else "-"


def ablation() -> Iterator[str]:
    """The weaker corrections beside V-trace, at several lags: a picture for each lag, and the ends in a table."""
    found = {key: experiment.found() for key, experiment in ABLATION.items()}
    if not all(found.values()):
        return
    figure, axes = plt.subplots(1, len(LAGS), figsize=(12, 3.4), sharey=True, layout="constrained")
    for place, lag in zip(axes, LAGS, strict=True):
        for number, (correction, label) in enumerate(CORRECTIONS.items()):
            for run in found[lag, correction]:
                name = label if run is found[lag, correction][0] else None
                place.plot(run.curve_steps, run.curve_returns, color=f"C{number}", linewidth=1, label=name)
        place.set(title=f"{lag} updates behind", xlabel="agent steps")
    axes[0].set(ylabel="return, mean of 100 episodes")
    axes[0].legend(frameon=False)
    figure.savefig(RESULTS / "vtrace.png", dpi=110)
    plt.close(figure)
    first = ABLATION[LAGS[-1], "vtrace"]
    yield "## What V-trace is for: IMPALA on CartPole-v1 with actors that are behind\n"
    yield "Return over the last 100 training episodes, mean of the seeds (least to most), by how many updates actors are behind.\n"
    yield "| | " + " | ".join(f"{lag} updates" for lag in LAGS) + " |"
    yield "| --- |" + " --- |" * len(LAGS)
    for correction, label in CORRECTIONS.items():
        ends = [[run.train_return for run in found[lag, correction]] for lag in LAGS]
        yield f"| {label} | " + " | ".join(f"{np.mean(end):.0f} ({min(end):.0f} to {max(end):.0f})" for end in ends) + " |"
    yield f"\n{len(found[0, 'vtrace'])} seeds each, the same for all. One of the runs: `{' '.join(first.command(1))}`\n"
    yield "![Return over steps, for each lag](results/vtrace.png)\n"


def memory() -> Iterator[str]:
    """Who remembers and who does not, on problems that ask for it."""
    if not any(one.found() for group in MEMORY.values() for one in group.values()):
        return
    yield "## Problems that ask for a memory\n"
    yield f"Best policy, {EPISODES} fresh episodes, of each seed. In the T-maze a return is the share of right turns: 0.5 is chance.\n"
    yield "| | system | steps | wall time | return of each seed | command |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for problem, group in MEMORY.items():
        for system, experiment in group.items():
            if runs := experiment.found():
                steps, wall = (np.mean([getattr(found, name) for found in runs]) for name in ("steps", "wall_seconds"))
                returns = ", ".join(f"{found.fresh_return:.2f}" for found in runs)
                command = f"`{' '.join(experiment.command(1)[:-2])}`"
                yield f"| {problem} | {system} | {steps:,.0f} | {duration(wall)} | {returns} | {command} |"
    yield ""


def states() -> Iterator[str]:
    """What sequences begin with: returns and Delta-Q."""
    found = {name: experiment.found() for name, experiment in STATES.items()}
    if not all(found.values()):
        return
    draw("r2d2-states", "R2D2 on CartPole-v1 without velocities", found, "greedy")
    yield "## What the recurrent state of a sequence begins with: R2D2 on CartPole-v1 without velocities\n"
    yield "| | seeds | greedy return at the end | training return at the end | Delta-Q of the first step | of the last step |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name, runs in found.items():
        greedy, train = np.mean([run.greedy_at(np.inf) for run in runs]), np.mean([run.train_return for run in runs])
        drift = [np.mean([run.late_metrics[metric] for run in runs]) for metric in ("delta_q_first", "delta_q_last")]
        yield f"| {name} | {len(runs)} | {greedy:.1f} | {train:.1f} | {drift[0]:.4f} | {drift[1]:.4f} |"
    yield "\nDelta-Q (Kapturowski et al. 2019, equation 4): how far values lie from those that the actor's own state gives; second half of a run.\n"
    yield "![Greedy return over steps and over wall time](results/r2d2-states.png)\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(BY_NAME), metavar="EXPERIMENT", help=", ".join(BY_NAME))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--anew", action="store_true", help="make runs again that are there")
    asked = parser.parse_args()
    chosen = list(BY_NAME.values()) if asked.only is None else [BY_NAME[name] for name in asked.only]
    with ThreadPoolExecutor(asked.jobs) as pool:
        jobs = [pool.submit(run, one, seed, asked.anew) for one in chosen for seed in range(1, one.seeds + 1)]
        for job in jobs:
            job.result()
    lines = ["# Results\n", "Written by `bench/learn.py` (`make learn`) from `docs/results/data`; no GPU.\n"]
    for experiment in EXPERIMENTS:
        if runs := experiment.found():
            lines += section(experiment, runs)
    for one in COMPARISONS:
        lines += comparison(one)
    lines += [*ablation(), *memory(), *states()]
    (ROOT / "docs" / "results.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()

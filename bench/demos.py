"""What demonstrations are worth: `python bench/demos.py`, or `--only doorkey --seeds 1 --jobs 1`.

Two levels with a sparse reward, of which the agent sees a part: a key, a door and a goal (MiniGrid, a scripted expert shows the way), and
a box behind a locked door (BabyAI, its bot does). 100 demonstrations of each are recorded once. Then, in the same number of steps and with the
same settings: R2D2; R2D3 with a ratio of 1/4, 1/16 and 1/256; and behaviour cloning with the same network, which takes no steps at all.

Goal: R2D3 reaches a success of 0.9 in 100 fresh episodes where R2D2 does not. An episode is a success if it has a reward.
What each run reached is kept in docs/results/data; one that is kept is not made again, unless `--anew` is given. Prints a table of all that is kept.
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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

import veldt
from veldt.agents.recurrent_q import RecurrentQAgent
from veldt.core import Place
from veldt.data import tree_map
from veldt.demos.datasets import open_dataset
from veldt.demos.table import Demonstrations
from veldt.envs import make_env_spec
from veldt.errors import DatasetRefused
from veldt.parts.evaluator import Play
from veldt.replay.selectors import Uniform
from veldt.settings import build
from veldt.systems import find
from veldt.systems.r2d3 import R2D3Config

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "docs" / "results" / "data"
EPISODES, DEMONSTRATIONS = 100, 100
CLONING = "cloning"
CLONING_UPDATES, CLONING_LEARNING_RATE = 3_000, 1e-3


@dataclass(frozen=True)
class Level:
    """A level, who shows it, and how many steps an agent has."""

    env: str
    shown_by: tuple[str, ...]
    dataset: str
    steps: int


LEVELS = {
    "doorkey": Level("MiniGrid-DoorKey-8x8-v0", ("--expert", "bench.experts:door_key"), "minigrid/doorkey-v0", 300_000),
    "unlockpickup": Level("BabyAI-UnlockPickup-v0", ("--bot",), "babyai/unlockpickup-v0", 300_000),
}
WAYS: dict[str, tuple[str, ...]] = {
    "r2d2": ("r2d2", "--preset", "memory", "--sequence-steps", "10", "--overlap-steps", "0", "--initial-state", "zero"),
    "r2d3-4": ("r2d3", "--preset", "minigrid", "--demo-ratio", "0.25"),
    "r2d3-16": ("r2d3", "--preset", "minigrid", "--demo-ratio", "0.0625"),
    "r2d3-256": ("r2d3", "--preset", "minigrid", "--demo-ratio", "0.00390625"),
}
"""By name: the system and its flags. R2D2's are those that R2D3's preset has too."""


@dataclass(frozen=True)
class Found:
    """What one run reached: success and return over fresh episodes of its best policy, and steps until an evaluation was at its best."""

    level: str
    way: str
    seed: int
    success: float
    fresh_return: float
    steps: int
    best_step: int
    made_with: str

    @property
    def path(self) -> Path:
        """Where it is kept."""
        return DATA / f"demos-{self.level}-{self.way}-{self.seed}.json"


def made_with() -> str:
    return f"torch {torch.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}"


def veldt_command(*arguments: str) -> None:
    """Runs `veldt ARGUMENTS` from the project's root."""
    print("veldt", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "veldt.cli", *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def record(level: Level) -> None:
    """Records the demonstrations, unless they are there."""
    try:
        open_dataset(level.dataset)
    except DatasetRefused:
        veldt_command("demos", "record", level.env, *level.shown_by, "--episodes", str(DEMONSTRATIONS), "--out", level.dataset)


def train(name: str, way: str, seed: int) -> Found:
    """Trains one agent and plays fresh episodes with its best policy."""
    level, (system, *flags) = LEVELS[name], WAYS[way]
    folder = f"runs/demos/{name}-{way}-{seed}"
    demos = () if system == "r2d2" else ("--demos", level.dataset)
    veldt_command("train", system, level.env, *flags, *demos, "--steps", str(level.steps), "--seed", str(seed), "--out", folder,
                  "--overwrite", "--quiet")  # fmt: skip
    fresh = veldt.evaluate(ROOT / folder, EPISODES, seed=1000 + seed)
    success = float(np.mean(np.array(fresh.returns) > 0))
    return Found(name, way, seed, success, round(fresh.return_mean, 3), level.steps, fresh.policy_step, made_with())


def clone(name: str, seed: int) -> Found:
    """The same network learns to name the demonstrated actions, and plays."""
    level = LEVELS[name]
    preset = find("r2d3").preset("minigrid", level.env)[1]
    own: dict[str, Any] = {key: value for key, value in preset.items() if key in R2D3Config.__dataclass_fields__}
    c, env = build(R2D3Config, own), make_env_spec(level.env)
    demos = Demonstrations(
        level.dataset, env, {}, view=c.view, selector=Uniform(), batch_size=c.batch_size, place=Place(seed=seed)
    )
    reader = c.view.reader((demos.streams,), env.frame_stack, c.batch_size)
    torch.manual_seed(seed)
    network = RecurrentQAgent(env, c.network)
    optimizer = torch.optim.Adam(network.parameters(), CLONING_LEARNING_RATE)
    for _ in range(CLONING_UPDATES):
        unroll = reader.read(demos.select(c.batch_size).keys)
        rows = {
            field: tree_map(lambda leaf: leaf[:-1], getattr(unroll, field))
            for field in ("obs", "first", "last_action", "last_reward")
        }
        state = tree_map(torch.from_numpy, network.initial_state(c.batch_size))
        values, _ = network(**rows, state=state)
        error = functional.cross_entropy(values.flatten(0, 1), unroll.action[:-1].flatten(), reduction="none")
        loss = (error * unroll.mask.flatten()).sum() / unroll.mask.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    play = Play(network, env, EPISODES, 0.0, np.random.SeedSequence(1000 + seed, spawn_key=tuple(b"evaluation")))
    while not play.advance(1000):
        pass
    returns = np.array([episode.episode_return for episode in play.episodes])
    return Found(name, CLONING, seed, float((returns > 0).mean()), round(float(returns.mean()), 3), 0, 0, made_with())


def run(name: str, way: str, seed: int, anew: bool) -> None:
    """Makes one run and keeps what it reached, unless that is there."""
    kept = DATA / f"demos-{name}-{way}-{seed}.json"
    if kept.is_file() and not anew:
        return
    found = clone(name, seed) if way == CLONING else train(name, way, seed)
    DATA.mkdir(parents=True, exist_ok=True)
    found.path.write_text(json.dumps(asdict(found)) + "\n")


def table() -> Iterator[str]:
    """All that is kept, as Markdown: success of each seed."""
    yield "| level | way | success in 100 fresh episodes, by seed | return |"
    yield "| --- | --- | --- | --- |"
    for name in LEVELS:
        for way in (*WAYS, CLONING):
            found = [Found(**json.loads(path.read_text())) for path in sorted(DATA.glob(f"demos-{name}-{way}-[0-9]*.json"))]
            if found:
                success = ", ".join(f"{each.success:.2f}" for each in found)
                yield f"| {LEVELS[name].env} | {way} | {success} | {np.mean([each.fresh_return for each in found]):.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=LEVELS, nargs="+", default=list(LEVELS), help="levels")
    parser.add_argument("--ways", choices=(*WAYS, CLONING), nargs="+", default=[*WAYS, CLONING])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--anew", action="store_true", help="make runs again that are kept")
    asked = parser.parse_args()
    torch.set_num_threads(1)  # the network is small
    for name in asked.only:
        record(LEVELS[name])
    with ThreadPoolExecutor(asked.jobs) as pool:
        made = [
            pool.submit(run, name, way, seed, asked.anew)
            for name in asked.only for seed in range(1, asked.seeds + 1) for way in asked.ways
        ]  # fmt: skip
        for future in made:
            future.result()
    print("\n".join(table()))


if __name__ == "__main__":
    main()

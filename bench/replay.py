"""What replaying costs beside a bare gather and beside other libraries: `python bench/replay.py`.

One batch = 512 transitions selected in proportion to priority, gathered (frame stacks rebuilt), and their priorities
updated. Prints, per case, batches a second (medians over rounds in which all contenders take turns, so that a busy
machine disturbs them alike) and the ratios of ours to each. Two cases:

    atari     84x84 uint8 frames, stacks of 4: eight frames a transition; 100,000 items (--items)
    cartpole  float32 [4]; 1,000,000 items (--items)

"bare" is the gather alone, by indices drawn beforehand: `array[indices]`, and `np.take(..., out=, mode="clip")` into
memory that is already there. Nobody selects or updates there, so it is a bound and not a contender. cpprb and torchrl
are measured if they can be imported: each as its users would configure it, cpprb with `next_of` and `stack_compress`
where frames are stacked, torchrl with a LazyTensorStorage, which stores every stack twice.

`--memory` fills a table with 1,000,000 Atari steps instead and prints the memory that the process took. Goal: 7.5 GB.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from veldt.core import Place
from veldt.data import ActionSpec, ArraySpec, EnvSpec
from veldt.replay.limiter import Limiter
from veldt.replay.selectors import Proportional
from veldt.replay.table import Table
from veldt.replay.views import Transitions

BATCH, ALPHA, BETA, GAMMA = 512, 0.6, 0.4, 0.99
FRAME, STACK, EPISODE_STEPS, UNROLL_STEPS = (84, 84), 4, 500, 250
ITEMS = {"atari": 100_000, "cartpole": 1_000_000}
Turn = Callable[[], Iterator[None]]
"""One contender: a generator that does one batch between two yields; what comes before the first is not measured."""


class Steps:
    """The experience that all contenders hold: random rows, an episode's end every 500 steps."""

    def __init__(self, case: str, items: int) -> None:
        self.case, self.items = case, items
        self.shape, self.dtype = (FRAME, np.uint8) if case == "atari" else ((4,), np.float32)
        self.stack = STACK if case == "atari" else 1
        self.random = np.random.default_rng(0)

    def rows(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Rows [start, stop), the same whenever they are asked for."""
        random = np.random.default_rng(start)
        count = stop - start
        place = np.arange(start, stop) % EPISODE_STEPS
        low = random.integers(0, 255, (count, *self.shape), np.uint8)
        return {
            "obs": low if self.dtype == np.uint8 else low.astype(self.dtype),
            "first": place == 0,
            "last": place == EPISODE_STEPS - 1,
            "action": random.integers(0, 2, count),
            "reward": random.random(count, np.float32),
            "discount": np.ones(count, np.float32),
        }

    def chunks(self) -> Iterator[tuple[int, int]]:
        """[start, stop) of rows that add up to `items` and one unroll."""
        for start in range(0, self.items + UNROLL_STEPS, UNROLL_STEPS):
            yield start, start + UNROLL_STEPS


def table_of(steps: Steps, n_steps: int) -> Table:
    """Our table, full, with random priorities."""
    env = EnvSpec(
        "Bench", lambda: None, ArraySpec(steps.shape, np.dtype(steps.dtype).name),
        ActionSpec("discrete", (), "int64", (2,)), frame_stack=steps.stack,
    )  # fmt: skip
    table = Table(
        env.step_spec(), actors=1, streams=1, unroll_steps=UNROLL_STEPS, capacity_steps=steps.items,
        view=Transitions(n_steps, GAMMA), selector=Proportional(ALPHA, BETA), limiter=Limiter(None),
        batch_size=BATCH, frame_stack=steps.stack, place=Place(seed=1),
    )  # fmt: skip
    inlet = table.inlet(0)
    for start, stop in steps.chunks():
        rows = np.arange(start, stop) % table.rows
        values = steps.rows(start, stop)
        for name, value in values.items():
            inlet.rows[name][rows, 0] = value
        inlet.rows["first"][stop % table.rows] = values["last"][-1]
        inlet.rows["last"][stop % table.rows] = False
        ripe = stop - n_steps + 1 - max(start - n_steps + 1, 0)
        inlet.commit(stop, steps.random.random((ripe, 1)))
    return table


def ours(steps: Steps, n_steps: int) -> Turn:
    table = table_of(steps, n_steps)

    def turn() -> Iterator[None]:
        priorities = steps.random.random(BATCH, np.float32)
        yield
        while True:
            batch = table.sample()
            table.update(batch.keys, priorities)
            yield

    return turn


def bare(steps: Steps, take: bool) -> Turn:
    """Eight frames a transition, or the five arrays that a transition of small observations comes from."""
    items = steps.items
    if steps.case == "atari":
        frames = np.empty((items, *FRAME), np.uint8)
        for start, stop in list(steps.chunks())[:-1]:
            frames[start:stop] = steps.rows(start, stop)["obs"]
        arrays, offsets = [frames], np.array([-3, -2, -1, 0, -2, -1, 0, 1])
        low, high = STACK, items - 1
    else:
        arrays = [np.ones((items, 4), np.float32) for _ in range(2)]
        arrays += [np.ones(items, dtype) for dtype in (np.int64, np.float32, np.float32)]
        offsets, low, high = np.array(0), 0, items
    room = [np.empty((BATCH, *offsets.shape, *array.shape[1:]), array.dtype) for array in arrays]

    def turn() -> Iterator[None]:
        drawn = [steps.random.integers(low, high, BATCH) for _ in range(1000)]
        yield
        while True:
            for starts in drawn:
                indices = starts[:, None] + offsets if offsets.ndim else starts
                for array, out in zip(arrays, room, strict=True):
                    if take:
                        array.take(indices, axis=0, out=out, mode="clip")
                    else:
                        array[indices]
                yield

    return turn


def stacked(values: dict[str, np.ndarray], axis: int) -> np.ndarray:
    """Frames [N, H, W] as stacks of four, frames before the chunk being zeros."""
    frames = np.concatenate([np.zeros((STACK, *FRAME), np.uint8), values["obs"]])
    count = len(values["obs"])
    return np.stack([frames[1 + back : 1 + back + count] for back in range(STACK)], axis)


def cpprb(steps: Steps) -> Turn:
    library = importlib.import_module("cpprb")
    shape = (*FRAME, STACK) if steps.case == "atari" else (4,)
    fields = {
        "obs": {"shape": shape, "dtype": steps.dtype},
        "act": {"dtype": np.int64},
        "rew": {"dtype": np.float32},
        "done": {"dtype": np.float32},
    }
    saving: dict[str, Any] = {"stack_compress": "obs"} if steps.case == "atari" else {}
    replay = library.PrioritizedReplayBuffer(steps.items, fields, next_of="obs", alpha=ALPHA, **saving)
    for start, stop in steps.chunks():
        values = steps.rows(start, stop)
        obs = stacked(values, -1) if steps.case == "atari" else values["obs"]
        next_obs = np.concatenate([obs[1:], obs[-1:]])
        replay.add(obs=obs, act=values["action"], rew=values["reward"], done=values["last"], next_obs=next_obs)
        if values["last"][-1]:
            replay.on_episode_end()

    def turn() -> Iterator[None]:
        priorities = steps.random.random(BATCH, np.float32)
        replay.update_priorities(np.arange(steps.items - 10), steps.random.random(steps.items - 10))
        yield
        while True:
            batch = replay.sample(BATCH, beta=BETA)
            replay.update_priorities(batch["indexes"], priorities)
            yield

    return turn


def torchrl(steps: Steps) -> Turn:
    data = importlib.import_module("torchrl.data")
    tensordict = importlib.import_module("tensordict").TensorDict
    replay = data.TensorDictPrioritizedReplayBuffer(
        alpha=ALPHA, beta=BETA, storage=data.LazyTensorStorage(steps.items), batch_size=BATCH, priority_key="td_error"
    )
    for start, stop in list(steps.chunks())[:-1]:
        values = steps.rows(start, stop)
        obs = torch.from_numpy(stacked(values, 1) if steps.case == "atari" else values["obs"])
        fields = {
            "obs": obs,
            "next_obs": obs.roll(-1, 0),
            "action": torch.from_numpy(values["action"]),
            "reward": torch.from_numpy(values["reward"]),
            "discount": torch.from_numpy(values["discount"]),
            "td_error": torch.rand(len(obs)),
        }
        replay.extend(tensordict(fields, [len(obs)]))

    def turn() -> Iterator[None]:
        priorities = torch.rand(BATCH)
        yield
        while True:
            batch = replay.sample()
            batch["td_error"] = priorities
            replay.update_tensordict_priority(batch)
            yield

    return turn


def rates(contenders: dict[str, Turn], rounds: int, seconds: float) -> dict[str, float]:
    """Batches a second of each: the median over rounds of turns of at least `seconds`."""
    running = {name: turn() for name, turn in contenders.items()}
    for generator in running.values():
        for _ in range(4):  # the first is preparation, the others warm up
            next(generator)
    found: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(rounds):
        for name, generator in running.items():
            done, began = 0, time.perf_counter()
            while (spent := time.perf_counter() - began) < seconds:
                next(generator)
                done += 1
            found[name].append(done / spent)
    return {name: statistics.median(values) for name, values in found.items()}


def compare(case: str, items: int, rounds: int, seconds: float, peers: bool) -> None:
    steps = Steps(case, items)
    contenders = {
        "bare fancy": bare(steps, take=False),
        "bare take": bare(steps, take=True),
        "veldt n=1": ours(steps, 1),
        "veldt n=3": ours(steps, 3),
    }
    for name, make in (("cpprb", cpprb), ("torchrl", torchrl)) if peers else ():
        try:
            contenders[name] = make(steps)
        except (ImportError, RuntimeError) as error:
            print(f"{name} is not here: {error}")
    found = rates(contenders, rounds, seconds)
    print(f"\n{case}, {items:,} items, batches of {BATCH}, {torch.get_num_threads()} threads")
    print(f"{'':<12}{'batches/s':>12}{'us':>10}{'n=1 / it':>10}{'n=3 / it':>10}")
    for name, rate in found.items():
        ratios = "".join(f"{found[f'veldt n={n}'] / rate:>10.2f}" for n in (1, 3))
        print(f"{name:<12}{rate:>12,.0f}{1e6 / rate:>10.1f}{ratios}")


def resident_bytes() -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024


def memory(items: int) -> None:
    steps = Steps("atari", items)
    before = resident_bytes()
    began = time.perf_counter()
    table = table_of(steps, 1)
    for _ in range(10):
        table.update(table.sample().keys, np.ones(BATCH))
    grown = resident_bytes() - before
    print(f"{items:,} Atari steps, prioritized: {grown / 1e9:.2f} GB resident ({table.nbytes / 1e9:.2f} GB streams), ", end="")
    print(f"filled in {time.perf_counter() - began:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--case", choices=[*ITEMS, "both"], default="both")
    parser.add_argument("--items", type=int, help="items of each case; by default 100,000 and 1,000,000")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.1, help="of one turn")
    parser.add_argument("--threads", type=int, help="of torch; by default as in a run: all cores for frames, one for vectors")
    parser.add_argument("--no-peers", action="store_true", help="leave cpprb and torchrl out")
    parser.add_argument("--memory", action="store_true", help="measure memory instead of speed")
    arguments = parser.parse_args()
    if arguments.memory:
        memory(arguments.items or 1_000_000)
        return
    for case, items in ITEMS.items():
        if arguments.case in (case, "both"):
            torch.set_num_threads(arguments.threads or ((os.cpu_count() or 1) if case == "atari" else 1))
            compare(case, arguments.items or items, arguments.rounds, arguments.seconds, not arguments.no_peers)


if __name__ == "__main__":
    main()

"""Gradients through the sharded parameter server, next to the memory bandwidth of the same cores.

    python bench/server.py [--rounds 3] [--seconds 5] [--learners 2]

Shards are processes of their own, as in a run of Gorila; learners are processes that pull, push a gradient that is there, and do nothing
else: what is measured is the server and the way to it. 1.7 million parameters, AdaGrad.

bandwidth: as many processes as there are learners copy between two arrays far larger than any cache, over and over. The ideal number of
applications is that bandwidth through the bytes that one application moves, each number read or written once for each thing that is
done to it:

    learner   gradient -> vector 2, its norm 1, vector -> mailboxes 2, slices -> its weights 2
    shard     AdaGrad: gradient 1, squares 2, weights 2; publishing 2

All arrays of a server and two learners are 80 MB, more than the caches of most machines hold, but not much more: what is in a cache when
it is needed again comes faster than memory allows. The bandwidth of copies that stay in the cache is printed too.
"""

from __future__ import annotations

import argparse
import multiprocessing
import select
import statistics
import time
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from veldt.core import Place
from veldt.parts.optimizers import AdaGradConfig
from veldt.parts.shards import ParameterShard
from veldt.runtime.docks import Dock, ShardPort, ShardServer

MOVES_PER_NUMBER = 14
BYTES = 4
COPIED_NUMBERS = 64_000_000
"""Two arrays of so many, 256 MB each, for the memory's bandwidth."""


def network() -> nn.Module:
    """About the Nature network's 1.7 million parameters."""
    return nn.Sequential(nn.Linear(3136, 512), nn.Linear(512, 160))


make_shard = partial(
    ParameterShard, network, AdaGradConfig(1e-3, 1e-10), max_staleness_updates=None, max_gradient_norm=None, learning_rate=None
)


def serve(dock: Dock, number: int, shards: int, barrier: Any, over: Any) -> None:
    """The process of one shard."""
    torch.set_num_threads(1)
    server = ShardServer(make_shard(place=Place(number, shards)), dock)
    barrier.wait()
    while not over.is_set():
        if not server.step():
            select.select([dock.bell], [], [], 0.1)
            dock.bell.silence()


def learn(docks: list[Dock], user: int, seconds: float, barrier: Any, counts: Any) -> None:
    """The process of one learner: pulls and pushes for `seconds`."""
    torch.set_num_threads(1)
    parameters = ParameterShard.join([ShardPort(dock, user) for dock in docks])
    gradients = [torch.full_like(parameter, 1e-3) for parameter in network().parameters()]
    bells = [dock.bells[user] for dock in docks]
    barrier.wait()
    pushed, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        if not parameters.can_push():
            for bell in select.select(bells, [], [], 0.1)[0]:
                bell.silence()
            continue
        weights = parameters.pull(())
        assert weights is not None
        parameters.push(gradients, weights.versions)
        pushed += 1
    counts.put(pushed / (time.perf_counter() - began))


def applications(shards: int, learners: int, seconds: float) -> float:
    """Gradients applied per second, by every shard, of all learners."""
    spawn = multiprocessing.get_context("spawn")
    docks = [Dock(make_shard(place=Place(number, shards)), ParameterShard.join, learners) for number in range(shards)]
    over, barrier, counts = spawn.Event(), spawn.Barrier(learners + shards), spawn.Queue()
    servers = [spawn.Process(target=serve, args=(dock, number, shards, barrier, over)) for number, dock in enumerate(docks)]
    pushers = [spawn.Process(target=learn, args=(docks, user, seconds, barrier, counts)) for user in range(learners)]
    for process in (*servers, *pushers):
        process.start()
    total = sum(counts.get() for _ in pushers)
    over.set()
    for process in (*pushers, *servers):
        process.join()
    for dock in docks:
        dock.close()
    return float(total)


def copy_for(numbers: int, seconds: float, barrier: Any, rates: Any) -> None:
    """Copies for `seconds`; puts the bytes read and written per second."""
    source, target = np.ones(numbers, np.float32), np.zeros(numbers, np.float32)
    barrier.wait()
    copies, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        np.copyto(target, source)
        copies += 1
    rates.put(copies * 2 * BYTES * numbers / (time.perf_counter() - began))


def bandwidth(numbers: int, processes: int, seconds: float) -> float:
    """Bytes per second that `processes` move together."""
    spawn = multiprocessing.get_context("spawn")
    barrier, rates = spawn.Barrier(processes), spawn.Queue()
    copiers = [spawn.Process(target=copy_for, args=(numbers, seconds, barrier, rates)) for _ in range(processes)]
    for process in copiers:
        process.start()
    total = sum(rates.get() for _ in copiers)
    for process in copiers:
        process.join()
    return float(total)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--learners", type=int, default=2)
    asked = parser.parse_args()
    numbers = sum(parameter.numel() for parameter in network().parameters())
    moved = MOVES_PER_NUMBER * BYTES * numbers
    limits: list[float] = []
    cached: list[float] = []
    reached: dict[int, list[float]] = {1: [], 2: [], 4: []}
    for _ in range(asked.rounds):
        limits.append(bandwidth(COPIED_NUMBERS, asked.learners, asked.seconds) / moved)
        cached.append(bandwidth(numbers, asked.learners, asked.seconds) / moved)
        for shards, rates in reached.items():
            rates.append(applications(shards, asked.learners, asked.seconds))
    limit = statistics.median(limits)
    print(f"{numbers:,} parameters, {asked.learners} learners; {moved / 1e6:,.1f} MB moved for each gradient")
    print(f"{'memory allows':18} {limit:8.1f} gradients/s ({limit * moved / 1e9:.1f} GB/s)")
    print(
        f"{'cache allows':18} {statistics.median(cached):8.1f} gradients/s ({statistics.median(cached) * moved / 1e9:.1f} GB/s)"
    )
    for shards, rates in reached.items():
        ratios = [rate / bound for rate, bound in zip(rates, limits, strict=True)]
        print(f"{shards} shard{'s' if shards > 1 else ' '}           {statistics.median(rates):8.1f} gradients/s, "
              f"{statistics.median(ratios):.2f} of what memory allows (rounds: {', '.join(f'{ratio:.2f}' for ratio in ratios)})")  # fmt: skip


if __name__ == "__main__":
    main()

"""Actors on ALE/Pong-v5 without a learner, next to bare stepping and bare inference in as many processes on the same cores.

    python bench/actors.py [--rounds 3] [--actors 2] [--environments 8] [--seconds 10]

bare: each process steps ALE's vector environment, which stacks the frames, with the actions of the dueling Nature network's
argmax, and does nothing else. Veldt: Ape-X's actors in processes, their initial priorities, and the replay that they feed, whose
index is kept by the home process on the same cores; no learner, nothing limited. Rounds are interleaved; medians are printed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ale_py.vector_env import AtariVectorEnv

from veldt.agents.q import QAgent, QNetworkConfig
from veldt.envs.make import make_env_spec
from veldt.program import Program
from veldt.runtime.processes import ProcessRuntime
from veldt.systems.apex import ApexConfig, program

WARM_UP_STEPS = 50
MOVING = "writing streams"


def bare_actor(environments: int, seconds: float, barrier: Any, rates: Any) -> None:
    """Steps and infers for `seconds`; puts steps per second into `rates`."""
    torch.set_num_threads(1)
    env = AtariVectorEnv("pong", environments, num_threads=1, reward_clipping=False, use_fire_reset=False)
    network = QAgent(make_env_spec("ALE/Pong-v5"), QNetworkConfig("nature", (512,), True))
    obs, _ = env.reset(seed=np.arange(environments))
    with torch.inference_mode():
        for step in range(1_000_000):
            if step == WARM_UP_STEPS:
                barrier.wait()
                started = time.perf_counter()
            obs, *_ = env.step(network(torch.from_numpy(obs)).argmax(-1).numpy())
            if step >= WARM_UP_STEPS and time.perf_counter() - started > seconds:
                break
    rates.put(environments * (step + 1 - WARM_UP_STEPS) / (time.perf_counter() - started))


def bare(actors: int, environments: int, seconds: float) -> float:
    """Steps per second of all processes together."""
    spawn = multiprocessing.get_context("spawn")
    barrier, rates = spawn.Barrier(actors), spawn.Queue()
    processes = [spawn.Process(target=bare_actor, args=(environments, seconds, barrier, rates)) for _ in range(actors)]
    for process in processes:
        process.start()
    total = sum(rates.get() for _ in processes)
    for process in processes:
        process.join()
    return float(total)


def actors_and_replay(actors: int, environments: int) -> Program:
    """Ape-X without its learner."""
    config = ApexConfig(actors=actors, environments=environments, replay_steps=100_000, samples_per_insert=None)
    whole = program(config, make_env_spec("ALE/Pong-v5"))
    kept = (replace(one, nodes=tuple(node for node in one.nodes if node.name != "learner")) for one in whole.bundles)
    return Program(tuple(kept))


def veldt(actors: int, environments: int, seconds: float) -> dict[str, float]:
    """Steps per second of all actors together, the share of their time that moving experience takes, and their memory."""
    runtime = ProcessRuntime(actors_and_replay(actors, environments), seed=0, device="cpu", lockstep=False, stuck_seconds=60)
    crew, memory = runtime.switchboard.crew, runtime.parts["replay"]
    began: list[tuple[float, int, dict[str, float]]] = []

    def spent() -> dict[str, float]:
        found: dict[str, float] = {}
        for worker in crew:
            for name, value in runtime.parts[worker.label].seconds.items():
                found[name] = found.get(name, 0.0) + value
        return found

    def more() -> bool:
        if not began:
            if all(worker.commits >= WARM_UP_STEPS // 50 + 1 for worker in crew):
                began.append((time.perf_counter(), memory.inserted_steps, spent()))
            return True
        return time.perf_counter() - began[0][0] < seconds

    try:
        runtime.run(more)
        started, steps, before = began[0]
        rate = (memory.inserted_steps - steps) / (time.perf_counter() - started)
        during = {name: value - before.get(name, 0.0) for name, value in spent().items()}
        private = [private_bytes(worker.pid) for worker in crew]
        resident = [worker.report.resident_bytes for worker in crew if worker.report is not None]
    finally:
        runtime.close()
    return {
        "steps/s": rate,
        "moving": during[MOVING] / sum(during.values()),
        "waiting": during.get("waiting", 0.0) / sum(during.values()),
        "resident MB": max(resident) / 1e6,
        "private MB": max(private) / 1e6,
    }


def private_bytes(pid: int | None) -> int:
    """Memory that a process shares with no other."""
    kilobytes = re.findall(r"Private_\w+:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text())
    return 1024 * sum(map(int, kilobytes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--environments", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10)
    asked = parser.parse_args()
    sizes = asked.actors, asked.environments, asked.seconds
    rounds = [(bare(*sizes), veldt(*sizes)) for _ in range(asked.rounds)]
    bare_rate = statistics.median(one for one, _ in rounds)
    ours = {name: statistics.median(found[name] for _, found in rounds) for name in rounds[0][1]}
    ratios = [found["steps/s"] / one for one, found in rounds]
    print(f"{asked.actors} actors with {asked.environments} environments each")
    print(f"bare stepping and inference  {bare_rate:8,.0f} steps/s")
    print(f"veldt                        {ours['steps/s']:8,.0f} steps/s, {statistics.median(ratios):.2f} of bare "
          f"(rounds: {', '.join(f'{ratio:.2f}' for ratio in ratios)})")  # fmt: skip
    print(f"moving experience            {ours['moving']:8.1%} of the actors' time (waiting {ours['waiting']:.1%})")
    print(f"memory of one actor          {ours['resident MB']:8,.0f} MB resident, {ours['private MB']:,.0f} MB its own")


if __name__ == "__main__":
    main()

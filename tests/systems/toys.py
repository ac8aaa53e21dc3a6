"""Small environments whose best return is known, and some that misbehave. Module-level, so that every process can make them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Corridor(gymnasium.Env[np.ndarray, int]):
    """Five cells in a row; start in the middle. Right end: +1, left end: 0; 12 steps at most. The best return is 1."""

    observation_space = spaces.Box(0.0, 1.0, (5,), np.float32)
    action_space = spaces.Discrete(2)
    limit = 12

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.cell, self.time = int(self.np_random.integers(1, 4)), 0
        return self._see(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.cell += 1 if action == 1 else -1
        self.time += 1
        over = self.cell in (0, 4)
        return self._see(), float(self.cell == 4), over, not over and self.time == self.limit, {}

    def _see(self) -> np.ndarray:
        return np.eye(5, dtype=np.float32)[self.cell]


class Crashing(Corridor):
    """Raises in every `VELDT_TEST_CRASH_EVERY`-th step of this process."""

    steps = 0

    def step(self, action: int) -> Any:
        Crashing.steps += 1
        if Crashing.steps % int(os.environ["VELDT_TEST_CRASH_EVERY"]) == 0:
            raise ValueError("the toy broke")
        return super().step(action)


class Interrupting(Corridor):
    """Sends this process the signal `VELDT_TEST_SIGNAL` at step `VELDT_TEST_SIGNAL_AT` of its environments."""

    steps = 0

    def step(self, action: int) -> Any:
        Interrupting.steps += 1
        if Interrupting.steps == int(os.environ.get("VELDT_TEST_SIGNAL_AT", "0")):
            for number in os.environ["VELDT_TEST_SIGNAL"].split(","):
                os.kill(os.getpid(), getattr(signal, number))
        return super().step(action)


class NanReward(Corridor):
    """A reward that is no number, 300 steps in."""

    steps = 0

    def step(self, action: int) -> Any:
        NanReward.steps += 1
        obs, reward, *rest = super().step(action)
        return obs, (float("nan") if NanReward.steps > 300 else reward), *rest


class Endless(Corridor):
    """One cell, reward 1 whatever one does, cut after 12 steps."""

    observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)

    def step(self, action: int) -> Any:
        self.time += 1
        return self._see(), 1.0, False, self.time == self.limit, {}

    def _see(self) -> np.ndarray:
        return np.zeros(1, np.float32)


class EndlessBox(Endless):
    """`Endless` for a continuous action."""

    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)


class Aim(gymnasium.Env[np.ndarray, np.ndarray]):
    """Name twice the number you see, five times; the reward is minus the squared miss. The best return is 0."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Box(-2.0, 4.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._see(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        miss = float(action[0]) - 2 * float(self.number[0])
        self.time += 1
        return self._see(), -(miss**2), self.time == 5, False, {}

    def _see(self) -> np.ndarray:
        self.number = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.number


class Faulty(Corridor):
    """Does what `VELDT_TEST_FAULTS` says: `actor 1: exit@100, actor 2: hang@50`, in these processes and at these steps of them.

    Each is done once in a run, or as often as `x` says (`exit@1x9`), which the files in `VELDT_TEST_FOLDER` count. At step 0 it is
    done when an environment is made.
    """

    steps = 0
    resets_to_fail = 0

    def __init__(self) -> None:
        self._faults("0")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if Faulty.resets_to_fail:
            Faulty.resets_to_fail -= 1
            raise OSError("the toy cannot be reset")
        return super().reset(seed=seed)

    def step(self, action: int) -> Any:
        Faulty.steps += 1
        self._faults(str(Faulty.steps))
        return super().step(action)

    def _faults(self, step: str) -> None:
        here = multiprocessing.current_process().name
        for number, fault in enumerate(os.environ["VELDT_TEST_FAULTS"].split(",")):
            where, _, what = fault.strip().partition(": ")
            kind, _, when = what.partition("@")
            when, _, times = when.partition("x")
            if where == here and when == step:
                for count in range(int(times or 1)):
                    mark = Path(os.environ["VELDT_TEST_FOLDER"], f"fault-{number}-{count}")
                    if not mark.exists():
                        mark.write_text(str(time.monotonic()))
                        self._do(kind)
                        break

    def _do(self, kind: str) -> None:
        if kind == "reset":
            Faulty.resets_to_fail = 2
        elif kind == "raise":
            raise ValueError("the toy broke")
        elif kind == "exit":
            print("these are my last words")
            sys.stdout.flush()
            os._exit(3)
        elif kind == "hang":
            time.sleep(1_000)
        else:
            os.kill(os.getpid(), getattr(signal, kind))


class Slow(Corridor):
    """A step takes 20 ms in the process `VELDT_TEST_SLOW`."""

    def step(self, action: int) -> Any:
        if multiprocessing.current_process().name == os.environ["VELDT_TEST_SLOW"]:
            time.sleep(0.02)
        return super().step(action)


class Noisy(Corridor):
    """Prints 20 KB at each step."""

    def step(self, action: int) -> Any:
        print("x" * 20_000)
        return super().step(action)


class HugeReward(Corridor):
    """300 steps in, the right end is worth so much that its square is not finite."""

    steps = 0

    def step(self, action: int) -> Any:
        HugeReward.steps += 1
        obs, reward, *rest = super().step(action)
        return obs, (reward * 3e38 if HugeReward.steps > 300 else reward), *rest


class EndlessEvaluation(Corridor):
    """An episode never ends in the process `evaluation`, which then leaves the file `evaluating` in `VELDT_TEST_FOLDER`."""

    def step(self, action: int) -> Any:
        if multiprocessing.current_process().name != "evaluation":
            return super().step(action)
        Path(os.environ["VELDT_TEST_FOLDER"], "evaluating").touch()
        return self._see(), 0.0, False, False, {}


class SlowToMake(Corridor):
    """Takes long to be made, and then cannot be; leaves the file `being-made` in `VELDT_TEST_FOLDER`."""

    def __init__(self) -> None:
        Path(os.environ["VELDT_TEST_FOLDER"], "being-made").touch()
        time.sleep(120)
        raise RuntimeError("nobody interrupted the toy while it was being made")


def huge_reward() -> HugeReward:
    return HugeReward()


def endless_evaluation() -> EndlessEvaluation:
    return EndlessEvaluation()


def slow_to_make() -> SlowToMake:
    return SlowToMake()


def faulty() -> Faulty:
    return Faulty()


def slow() -> Slow:
    return Slow()


def noisy() -> Noisy:
    return Noisy()


class TwoSwitches(gymnasium.Env[np.ndarray, np.ndarray]):
    """Five steps; 1 for setting both switches as they are shown, else 0. The best return is 5."""

    observation_space = spaces.Box(0.0, 1.0, (5,), np.float32)
    action_space = spaces.MultiDiscrete([2, 3])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._see(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        right = tuple(action) == self.wanted
        self.time += 1
        return self._see(), float(right), False, self.time == 5, {}

    def _see(self) -> np.ndarray:
        self.wanted = int(self.np_random.integers(2)), int(self.np_random.integers(3))
        return np.concatenate([np.eye(2)[self.wanted[0]], np.eye(3)[self.wanted[1]]]).astype(np.float32)


class Recall(gymnasium.Env[np.ndarray, int]):
    """A sign is shown at once; four steps later it has to be named: +1, or -1. In between nothing is to be seen."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.sign, self.time = int(self.np_random.integers(2)), 0
        return np.array([2.0 * self.sign - 1, 0], np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        over = self.time == 4
        reward = 0.0 if not over else 1.0 if action == self.sign else -1.0
        return np.array([0, self.time == 3], np.float32), reward, over, False, {}


class Lock(gymnasium.Env[np.ndarray, int]):
    """Twelve dials of three positions, one after the other; only the first observation shows the key, which all positions are turned by.

    A wrong position ends the episode: reward 0. After the last dial: 1. Who turns at random opens it once in 531,441 episodes; who does
    not remember the key, in a third of them at best.
    """

    observation_space = spaces.Box(0.0, 1.0, (16,), np.float32)
    action_space = spaces.Discrete(3)
    code = (0, 2, 1, 1, 0, 2, 2, 0, 1, 2, 1, 0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.dial, self.key = -1, int(self.np_random.integers(3))
        return self._see(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        wrong = self.dial >= 0 and action != self.right
        self.dial += 1
        opened = not wrong and self.dial == len(self.code)
        return self._see(), float(opened), wrong or opened, False, {}

    @property
    def right(self) -> int:
        """The position of the current dial; anything will do while the key is shown."""
        return (self.code[self.dial] + self.key) % 3 if self.dial >= 0 else 0

    def _see(self) -> np.ndarray:
        seen = np.zeros(16, np.float32)
        seen[13 + self.key if self.dial < 0 else self.dial] = 1
        return seen


def lock() -> Lock:
    return Lock()


def opens_the_lock(obs: np.ndarray, env: Lock) -> int:
    """An expert for `Lock`."""
    return env.right


def walks_right(obs: np.ndarray) -> int:
    """An expert for `Corridor`."""
    return 1


def endless() -> Endless:
    return Endless()


def corridor() -> Corridor:
    return Corridor()


def crashing() -> Crashing:
    return Crashing()


def interrupting() -> Interrupting:
    return Interrupting()


def nan_reward() -> NanReward:
    return NanReward()


SECONDS: dict[str, Any] = {
    "preset": "cartpole",
    "hidden": (32,),
    "batch_size": 32,
    "start_steps": 200,
    "replay_steps": 2_000,
    "environments": 2,
    "target_period_updates": 50,
    "eval_episodes": 5,
    "eval_every_steps": 500,
    "log_every_steps": 250,
    "steps": 2_000,
    "quiet": True,
}
"""What makes any value-based system learn a toy in seconds."""

SMALL: dict[str, Any] = {**SECONDS, "steps_per_update": 4, "epsilon_steps": 1_000}
"""DQN for the toys: seconds."""

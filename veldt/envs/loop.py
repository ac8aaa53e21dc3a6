"""B Python environments stepped one after the other, in Veldt's time convention and without per-step allocations.

Each episode starts with `env.reset(seed=...)`, the seed made from (stream, number of the episode), so a run can be
repeated, and a stream restored in mid-episode by taking its recorded actions again (`replayed.py`).

An environment that raises is closed and replaced, and its stream goes on with a fresh episode. The row before cannot
be taken back: it keeps reward 0 and discount 1, and is followed by a row that is `first` although it was not `last`
itself. The actor, who still holds that row, then marks it `last`: the episode ends there as if truncated.

Refuses, with `EnvironmentFailed`: the eleventh failure of a stream that finished no episode in between, and at once
an environment that breaks Gymnasium's contract or returns a reward or observation that is not finite.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections import deque
from collections.abc import Callable
from math import isfinite
from typing import Any

import numpy as np

from veldt.core import State
from veldt.data import Episode, TimeStep, Tree
from veldt.envs.contract import CAREFUL_STEPS, check_reset, check_step
from veldt.envs.families import Env, Family
from veldt.envs.replayed import REPLAYABLE_STEPS, Recording, pack, unpack
from veldt.envs.spaces import Observations, native_actions
from veldt.errors import EnvironmentFailed

RESTARTS = 10
"""So often a stream may fail without finishing an episode; the next failure ends the run."""

BACKOFF_SECONDS = 0.01
"""Pause after a failed reset; doubles with each that follows, up to a second."""


_BITS64 = 2**64 - 1


def episode_seed(key: int, episode: int) -> int:
    """The seed of an episode (31 bits, which every generator takes), from its stream's 64-bit key: splitmix64.

    Half a microsecond, where a `SeedSequence` per episode costs twenty: as much as two steps of CartPole.
    """
    mixed = (key + (episode + 1) * 0x9E3779B97F4A7C15) & _BITS64
    mixed = ((mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9) & _BITS64
    mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & _BITS64
    return (mixed ^ mixed >> 31) >> 33


class LoopEnvironments:
    """`core.Environments` over B Python environments made by `create`, whose observations are stored as `spec`."""

    def __init__(self, create: Callable[[], Env], family: Family, spec: Tree, streams: int, seeds: np.random.SeedSequence):
        self.streams = streams
        self._create, self._family = create, family
        self._keys = seeds.generate_state(streams, np.uint64).tolist()
        self._envs: list[Env | None] = [None] * streams
        env = self._envs[0] = create()
        self._observations = Observations(env.observation_space, spec, streams)
        self._native = native_actions(env.action_space)
        self._first, self._last = np.zeros(streams, bool), np.zeros(streams, bool)
        self._reward, self._discount = np.zeros(streams, np.float32), np.ones(streams, np.float32)
        self._row = TimeStep(self._observations.rows, self._first, self._last, self._reward, self._discount)
        self._flags_set = False
        self._over = [False] * streams  # `last` of the current row, as Python booleans
        self._episode = [-1] * streams
        self._steps, self._began = 0, [0] * streams  # steps so far, and how many before each episode
        self._return = [0.0] * streams
        self._actions: list[deque[Any]] = [deque() for _ in range(streams)]
        self._failures = [0] * streams
        self._first_error = [""] * streams
        self._finished: list[Episode] = []
        self._careful = CAREFUL_STEPS
        self._warned_bounds = False

    def reset(self) -> TimeStep:
        """Starts B episodes: all rows are `first`."""
        self._clear()
        for stream in range(self.streams):
            self._begin(stream)
        self._check_finite()
        return self._row

    def step(self, action: np.ndarray) -> TimeStep:
        """Acts with `action` [B, ...]. A stream whose row was `last` ignores it and starts its next episode."""
        if self._flags_set:
            self._clear()
        self._steps += 1
        envs, over, rewards, returns = self._envs, self._over, self._reward, self._return
        actions, write, careful = self._actions, self._observations.write, self._careful
        for stream, native in enumerate(self._native(action)):
            if over[stream]:
                self._begin(stream)
                continue
            try:
                answer = envs[stream].step(native)  # type: ignore[union-attr]
            except Exception as error:
                self._failed(stream, f"step {self._length(stream)}", error)
                self._begin(stream)
                continue
            if careful:
                self._inspect(stream, answer)
            try:
                obs, reward, terminated, truncated, _ = answer
                write(stream, obs)
                reward = float(reward)
            except Exception as error:
                raise self._broken(stream, answer) from error
            if not isfinite(reward):
                raise self._broken(stream, answer)
            rewards[stream] = reward
            returns[stream] += reward
            actions[stream].append(native)
            if terminated or truncated:
                self._end(stream, bool(terminated))
        self._check_finite()
        if careful:
            self._careful -= 1
        return self._row

    def pop_episodes(self) -> list[Episode]:
        """The episodes that finished since the last call."""
        finished, self._finished = self._finished, []
        return finished

    def environment(self, stream: int) -> Env | None:
        """The environment behind a stream, to look at; another one after a failure."""
        return self._envs[stream]

    def state_dict(self) -> State:
        """The number of each stream's episode and its actions so far: enough to take the same steps again."""
        actions = [
            np.array(taken) if len(taken) == self._length(stream) else None for stream, taken in enumerate(self._actions)
        ]
        return pack(self._episode, actions, self._over, self._return, self._observations.rows, self._finished)

    def load_state_dict(self, state: State | None) -> TimeStep:
        """Takes the recorded actions again, or starts new episodes from None.

        Where that does not lead to the recorded observation, a new episode starts and a warning says so.
        """
        if state is None:
            return self.reset()
        recording = unpack(state, self.streams)
        self._clear()
        for stream in range(self.streams):
            self._replay(stream, recording)
        self._finished = recording.finished
        self._check_finite()
        return self._row

    def close(self) -> None:
        """Closes all environments. An error of one does not keep the others open."""
        for stream in range(self.streams):
            self._discard(stream)

    def _clear(self) -> None:
        self._first[:] = False
        self._last[:] = False
        self._reward[:] = 0.0
        self._discount[:] = 1.0
        self._flags_set = False

    def _begin(self, stream: int) -> None:
        """Starts the stream's next episode, with a new environment where there is none; keeps trying."""
        while True:
            self._episode[stream] += 1
            try:
                answer = self._reset(stream)
            except Exception as error:
                self._failed(stream, "reset", error)
                time.sleep(min(1.0, BACKOFF_SECONDS * 2 ** (self._failures[stream] - 1)))
                continue
            break
        try:
            if self._careful:
                check_reset(answer, self._observations)
            self._observations.write(stream, answer[0])
        except Exception as error:
            complaint = self._observations.complaint(answer[0]) or error
            raise EnvironmentFailed(f"env {stream} reset: {complaint}") from error
        self._first[stream] = self._flags_set = True
        self._over[stream] = False
        self._reward[stream] = 0.0
        self._began[stream], self._return[stream] = self._steps, 0.0
        self._actions[stream] = deque(maxlen=REPLAYABLE_STEPS)

    def _reset(self, stream: int) -> Any:
        env = self._envs[stream]
        if env is None:
            env = self._envs[stream] = self._create()
        self._family.before_reset(env)
        return env.reset(seed=episode_seed(self._keys[stream], self._episode[stream]))

    def _length(self, stream: int) -> int:
        """Steps of the stream's running episode, the one being taken included."""
        return self._steps - self._began[stream]

    def _end(self, stream: int, terminated: bool) -> None:
        self._last[stream] = self._over[stream] = self._flags_set = True
        if terminated:
            self._discount[stream] = 0.0
        self._failures[stream] = 0
        self._finished.append(Episode(stream, self._return[stream], self._length(stream)))

    def _failed(self, stream: int, where: str, error: Exception) -> None:
        """Counts a failure and drops the environment; says so, or gives up."""
        self._discard(stream)
        problem = f"{type(error).__name__} in {where}"
        if not self._failures[stream]:
            self._first_error[stream] = f"{problem}: {error}"
        if self._failures[stream] == RESTARTS:
            what = f"{RESTARTS} resets" if where == "reset" else f"in step after {RESTARTS} restarts"
            raise EnvironmentFailed(
                f"env {stream} failed {what}; stopping. First error: {self._first_error[stream]}"
            ) from error
        self._failures[stream] += 1
        restart = f"restart {self._failures[stream]}/{RESTARTS}"
        warnings.warn(f"env {stream}: {problem} ({restart}): {error}", UserWarning, stacklevel=4)

    def _discard(self, stream: int) -> None:
        env, self._envs[stream] = self._envs[stream], None
        if env is not None:
            with contextlib.suppress(Exception):  # a broken environment may fail to close, and is dropped anyway
                env.close()

    def _inspect(self, stream: int, answer: Any) -> None:
        try:
            check_step(answer, self._observations)
        except Exception as error:
            raise EnvironmentFailed(f"env {stream} step {self._length(stream)}: {error}") from error
        if not self._warned_bounds and (outside := self._observations.outside(answer[0])):
            self._warned_bounds = True
            warnings.warn(f"env {stream} step {self._length(stream)}: {outside}", UserWarning, stacklevel=3)

    def _broken(self, stream: int, answer: Any) -> EnvironmentFailed:
        """The error for an answer that could not be stored."""
        where = f"env {stream} step {self._length(stream)}"
        try:
            check_step(answer, self._observations)
        except Exception as error:
            return EnvironmentFailed(f"{where}: {error}")
        return EnvironmentFailed(f"{where}: step() returned something that cannot be stored: {answer!r}")

    def _check_finite(self) -> None:
        if not self._observations.all_finite():
            stream, problem = self._observations.not_finite()
            raise EnvironmentFailed(f"env {stream} step {self._length(stream)}: {problem}")

    def _replay(self, stream: int, recording: Recording) -> None:
        """Brings one stream to where it was recorded, or starts its next episode."""
        actions, episode = recording.actions[stream], recording.episode[stream]
        if actions is not None:
            self._episode[stream] = episode - 1
            self._begin(stream)
            if self._episode[stream] == episode and self._repeat(stream, actions):
                self._over[stream] = recording.over[stream]
                self._first[stream] = not len(actions)
                self._last[stream] = recording.over[stream]
                self._return[stream], self._began[stream] = recording.returns[stream], self._steps - len(actions)
                if recording.matches(stream, self._observations.rows):
                    return
        self._episode[stream] = episode
        self._begin(stream)
        self._last[stream] = False
        reason = "did not come back to its observation" if actions is not None else "was too long to record"
        warnings.warn(f"env {stream}: episode {episode} {reason}; a new one starts", UserWarning, stacklevel=3)

    def _repeat(self, stream: int, actions: np.ndarray) -> bool:
        """Takes `actions` again; whether that was possible."""
        env = self._envs[stream]
        obs: Any = None
        for action in actions.tolist() if actions.dtype.kind == "i" and actions.ndim == 1 else list(actions):
            try:
                obs = env.step(action)[0]  # type: ignore[union-attr]
            except Exception as error:
                self._failed(stream, "replay", error)
                return False
            self._actions[stream].append(action)
        if obs is not None:
            self._observations.write(stream, obs)
        return True

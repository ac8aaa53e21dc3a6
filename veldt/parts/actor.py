"""The actor: acts in B environments and writes what happens into its streams, one unroll per `step()`."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from veldt.core import Acted, Agent, InitialPriorities, Inlet, Memory, Parameters, Place, State
from veldt.data import EPISODE_STEP, STEP_FIELDS, WEIGHTS_VERSION, EnvSpec, Episode, TimeStep, tree_leaves
from veldt.math.exploration import Exploration
from veldt.parts.parameters import Follower
from veldt.parts.sight import Sight


class Actor:
    """Writes unrolls of `unroll_steps` rows of `streams` environments into its inlet of `memory`.

    It takes new weights before an unroll, never inside one. Steps are counted where an action counts: not at the
    rows that end episodes. An actor that starts, or starts again, writes `first` rows: no episode is ever joined to
    another.
    """

    lag_updates: int | None
    """How many updates old the weights of the last unroll were when it ended."""

    _lags: list[int]

    _chosen: Acted | None
    """What the agent has decided to do at the row to act at, where it acts ahead."""

    def __init__(
        self,
        make_agent: Callable[[], Any],
        env: EnvSpec,
        exploration: Exploration,
        *,
        unroll_steps: int,
        streams: int,
        pull_period_steps: int | None,
        initial_priorities: InitialPriorities | None,
        max_lag_updates: int | None,
        acts_ahead: bool = False,
        memory: Memory,
        parameters: Parameters,
        place: Place,
    ) -> None:
        """Args:
        make_agent: builds the agent; its weights come from `parameters`.
        env: the environment to make `streams` of.
        exploration: how much each stream explores.
        unroll_steps: rows written between two commits.
        pull_period_steps: steps of each stream between two copies of the weights, at least; None follows every update.
        initial_priorities: how to rate new items, where the memory wants that; made of recorded extras.
        max_lag_updates: unrolls acted with weights that are more updates old than this, when they end, are dropped.
        acts_ahead: what is done at the row after an unroll is decided and written before the unroll is committed, for Sarsa.
        memory: has an inlet for each actor.
        parameters: where the weights come from.
        place: which actor of how many this is, and its seeds.
        """
        self._agent: Agent = make_agent()
        self._follower = Follower(self._agent, parameters, copies=pull_period_steps is not None)
        self._pull_period, self._max_lag = pull_period_steps, max_lag_updates
        self._parameters, self._initial_priorities = parameters, initial_priorities
        self._lags, self.lag_updates = [], None
        self._inlet: Inlet = memory.inlet(place.replica)
        environments, actions = place.seeds("actor").spawn(2)
        self._env = env.make(streams, environments)
        self._random = np.random.Generator(np.random.PCG64(actions))
        self._exploration, self._unroll_steps = exploration, unroll_steps
        self._index = np.arange(streams) + place.replica * streams
        self._count, self._replicas = streams * place.replicas, place.replicas
        self._sight = Sight(env, streams)
        self._row = self._inlet.end
        self._pulled_at = self._row - (pull_period_steps or 0)  # the first unroll of whoever follows another begins with a copy
        self.steps = self._inlet.end * streams + place.past_steps
        self.seconds = {"inference": 0.0, "environment": 0.0, "writing streams": 0.0}
        self._restart: TimeStep | None = None
        self._fields = {name: tree_leaves(value) for name, value in self._inlet.rows.items()}
        self._extras = [name for name in self._fields if name not in (*STEP_FIELDS, WEIGHTS_VERSION, EPISODE_STEP)]
        self._rated = [name for name in self._fields if name not in ("obs", "first", "action", WEIGHTS_VERSION)]
        self._episode_step = np.zeros(streams, np.int32)
        self._state = self._agent.initial_state(streams)
        self._state_rooms = tree_leaves(self._inlet.states)
        self._acts_ahead, self._chosen = acts_ahead, None
        step = self._env.reset()
        if self._row == 0:
            self._observe(step)
        else:
            self._begin_behind(step)

    def _begin_behind(self, step: TimeStep) -> None:
        """Episodes that begin out of turn, at `step`: the row under way keeps its observation and becomes the last of its own."""
        self._restart, self._chosen = step, None
        # Of an episode whose beginning may be unknown; no state is kept there.
        self._episode_step = np.zeros_like(self._episode_step)

    def _observe(self, step: TimeStep, action: np.ndarray | None = None) -> None:
        """Writes the observation and flags of the row to act at next, to which `action` led."""
        row = self._row % self._inlet.ring_rows
        for room, leaf in zip(self._fields["obs"], tree_leaves(step.obs), strict=True):
            room[row] = leaf
        self._fields["first"][0][row] = step.first
        self._fields["last"][0][row] = step.last
        if EPISODE_STEP in self._fields:
            self._episode_step = np.where(step.first, np.int32(0), self._episode_step + 1)
            self._fields[EPISODE_STEP][0][row] = self._episode_step
        self._seen = self._sight.see(step, action)

    def step(self) -> bool:
        """One unroll of all environments, committed; False if the memory has no room for one."""
        if not self._inlet.can_insert():
            return False
        if self._row - self._pulled_at >= (self._pull_period or 0):
            self._follower.pull()
            self._pulled_at = self._row
        exploration = self._exploration(self.steps * self._replicas, self._index, self._count)
        start = self._row
        if self._restart is not None:  # looked up only now: a resumed run loads its replay after its actors
            self._seen = self._sight.recall(self._inlet.rows, self._row)
        for _ in range(self._unroll_steps):
            self._advance(exploration)
        if self._acts_ahead:
            self._chosen = self._act(exploration)
            self._fields["action"][0][self._row % self._inlet.ring_rows] = self._chosen.action
        written = time.perf_counter()
        rows = np.arange(start, self._row) % self._inlet.ring_rows
        if WEIGHTS_VERSION in self._fields:
            self._fields[WEIGHTS_VERSION][0][rows] = self._follower.version
        self._note_lag(rows)
        priorities = self._priorities(start)
        self.steps += int(np.count_nonzero(~self._fields["last"][0][rows]))
        self._inlet.commit(self._row, priorities)
        self.seconds["writing streams"] += time.perf_counter() - written
        return True

    def _note_lag(self, rows: np.ndarray) -> None:
        """How many updates old the weights behind `rows` are; if too many, the rows are made void: nothing is learned from them."""
        lag = self._parameters.version - self._follower.version
        if self._max_lag is not None and lag > self._max_lag:
            self._fields["last"][0][rows] = True
            warnings.warn(f"unroll {lag:,} updates old; dropped", stacklevel=2)
        self.lag_updates = lag
        self._lags.append(lag)

    def _priorities(self, start: int) -> np.ndarray | None:
        """Of the rows whose windows became whole with the unroll from row `start` on; their beginnings are in the ring."""
        rate = self._initial_priorities
        if rate is None:
            return None
        rows = np.arange(max(0, start - rate.window_steps + 1), self._row) % self._inlet.ring_rows
        return rate({name: self._fields[name][0][rows] for name in self._rated})

    def _advance(self, exploration: np.ndarray) -> None:
        """Acts at the current row and observes the next one."""
        row = self._row % self._inlet.ring_rows
        fields, seconds = self._fields, self.seconds
        if self._state_rooms:
            self._keep_states()
        started = time.perf_counter()
        acted = self._chosen or self._act(exploration)
        self._chosen, self._state = None, acted.state
        inferred = time.perf_counter()
        step = self._env.step(acted.action) if self._restart is None else self._restart
        self._restart = None
        stepped = time.perf_counter()
        fields["action"][0][row] = acted.action
        for name in self._extras:
            fields[name][0][row] = acted.extras[name]
        fields["reward"][0][row] = step.reward
        fields["discount"][0][row] = step.discount
        # An environment that had to be started again begins an episode out of turn: what it was in ends here, as if truncated.
        last = fields["last"][0][row]
        np.logical_or(last, step.first, out=last)
        self._row += 1
        self._observe(step, acted.action)
        seconds["inference"] += inferred - started
        seconds["environment"] += stepped - inferred
        seconds["writing streams"] += time.perf_counter() - stepped

    def _act(self, exploration: np.ndarray) -> Acted:
        """What the agent does at the current row."""
        return self._agent.act(self._seen, self._state, exploration, self._random)

    def _keep_states(self) -> None:
        """Writes what the agent carries into the row to act at, where the schedule wants it."""
        schedule = self._inlet.schedule
        number = self._episode_step if schedule.of_episodes else np.full_like(self._episode_step, self._row)
        place = self._row // schedule.spacing_rows % self._state_rooms[0].shape[1]
        for ring, offset in enumerate(schedule.offsets):
            due = number % schedule.period_steps == offset
            if schedule.of_episodes:
                due &= number > 0
            if due.any():
                for room, leaf in zip(self._state_rooms, tree_leaves(self._state), strict=True):
                    room[ring, place, due] = leaf[due]

    def pop_episodes(self) -> list[Episode]:
        """The episodes that finished since the last call."""
        return self._env.pop_episodes()  # type: ignore[no-any-return]

    def waiting_for(self) -> str:
        """Why it may not write."""
        return self._inlet.waiting_for()

    def metrics(self) -> dict[str, float]:
        """Exploration now, averaged over the streams, and the policy lag of the unrolls since the last call, if there are any."""
        exploration = self._exploration(self.steps * self._replicas, self._index, self._count)
        values = {"exploration": float(exploration.mean())}
        lags, self._lags = self._lags, []
        if lags:
            values |= {"policy_lag_updates": sum(lags) / len(lags), "policy_lag_updates_max": float(max(lags))}
        return values

    def close(self) -> None:
        """Closes the environments."""
        self._env.close()

    def state_dict(self) -> State:
        """Counters, random numbers and, where the environments allow it, the episodes under way."""
        return {
            "row": self._row,
            "steps": self.steps,
            "random": self._random.bit_generator.state,
            "env": self._env.state_dict(),
            "sight": self._sight.state_dict(),
            "state": self._state,
            "episode_step": self._episode_step,
            "restart": self._restart is not None,
            "weights": self._follower.state_dict(),
            "pulled_at": self._pulled_at,
            "lags": list(self._lags),
            "chosen": None if self._chosen is None else self._chosen._asdict(),
        }

    def load_state_dict(self, state: State) -> None:
        """Goes on where `state_dict` was taken; in the middle of the same episodes if the environments can."""
        self._row, self.steps = int(state["row"]), int(state["steps"])
        self._random.bit_generator.state = state["random"]
        self._follower.load_state_dict(state["weights"])
        self._pulled_at, self._lags = int(state["pulled_at"]), list(state["lags"])
        self._state = state["state"]
        self._chosen = None if state["chosen"] is None else Acted(**state["chosen"])
        self._episode_step = state["episode_step"]
        if EPISODE_STEP in self._fields:
            self._episode_step = self._episode_step - np.int32(1)  # the row to act at is observed once more
        step = self._env.load_state_dict(state["env"])
        if state["env"] is None or state["restart"]:
            self._begin_behind(step)
        else:
            self._observe(step)
            self._seen = self._sight.load(state["sight"], step)

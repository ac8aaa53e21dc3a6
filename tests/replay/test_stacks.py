"""What the actor's network saw and what the learner's sees are the same frames."""

from functools import partial

import numpy as np
import pytest
import torch

from tests.replay.writers import Poisoned
from veldt.core import Acted, Place
from veldt.data import ActionSpec, ArraySpec, EnvSpec, TimeStep, Weights
from veldt.parts.actor import Actor
from veldt.replay.limiter import Limiter
from veldt.replay.selectors import Fifo, Uniform
from veldt.replay.table import Table
from veldt.replay.views import Transitions, Unrolls


class CountingFrames:
    """Frames that show how many steps were ever taken; episodes of random lengths; now and then one starts out of turn."""

    def __init__(self, shape, streams, seeds) -> None:
        self.streams, self._shape = streams, shape
        self._random = np.random.default_rng(seeds)
        self._count = 0

    def _answer(self, first, last, discount) -> TimeStep:
        self._count += 1
        number = self._count * self.streams + np.arange(self.streams)
        obs = np.broadcast_to(number.reshape(-1, *[1] * len(self._shape)), (self.streams, *self._shape))
        self._last = last
        return TimeStep(obs.astype(np.float32), first, last, number.astype(np.float32), discount)

    def reset(self) -> TimeStep:
        ones = np.ones(self.streams, bool)
        return self._answer(ones, ~ones, ones.astype(np.float32))

    def step(self, action) -> TimeStep:
        dice = self._random.random(self.streams)
        first = self._last | (dice < 0.05)
        last = ~first & (dice > 0.8)
        return self._answer(first, last, np.where(last & (dice > 0.9), 0, 1).astype(np.float32))

    def pop_episodes(self):
        return []

    def close(self) -> None: ...


class Noting(torch.nn.Module):
    """An agent that notes what it sees, and acts with the number of the row."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[np.ndarray] = []

    def initial_state(self, batch_size):
        return None

    def act(self, seen, state, exploration, random) -> Acted:
        self.seen.append(seen.obs.copy())
        return Acted(np.full(len(seen.obs), len(self.seen) - 1), None, {})


class NoParameters:
    version = 0

    def pull(self, held):
        return Weights((0,), {}) if held != (0,) else None


def run(view, selector, stack, shape, streams=3, **limits):
    env = EnvSpec("Counting", partial(CountingFrames, shape), ArraySpec(shape, "float32"),
                  ActionSpec("discrete", (), "int64", (9,)), frame_stack=stack)  # fmt: skip
    table = Table(
        env.step_spec(), actors=1, streams=streams, unroll_steps=4, capacity_steps=24 * streams, view=view,
        selector=selector, limiter=Limiter(None), frame_stack=stack, place=Place(arena=Poisoned), **limits,
    )  # fmt: skip
    agent = Noting()
    actor = Actor(
        lambda: agent, env, lambda steps, index, count: np.zeros(len(index)), unroll_steps=4, streams=streams,
        pull_period_steps=None, initial_priorities=None, max_lag_updates=None, memory=table, parameters=NoParameters(), place=Place(),
    )  # fmt: skip
    return table, actor, agent


@pytest.mark.parametrize("stack", [1, 2, 4])
@pytest.mark.parametrize("shape", [(2,), (9, 9)], ids=["small", "large"])
def test_transitions_show_the_learner_what_the_actor_saw(stack, shape):
    table, actor, agent = run(Transitions(1, 0.99), Uniform(), stack, shape, batch_size=16)
    read = set()
    for _ in range(40):
        assert actor.step()
        for _ in range(4):
            batch = table.sample()
            for item, key in enumerate(batch.keys.tolist()):
                row, stream = divmod(key, 3)
                assert np.array_equal(batch.data.obs[item].numpy(), agent.seen[row][stream])
                assert int(batch.data.action[item]) == row
                if row + 1 < len(agent.seen):
                    assert np.array_equal(batch.data.next_obs[item].numpy(), agent.seen[row + 1][stream])
                read.add(row)
    assert max(read) > 3 * table.rows
    assert actor.steps == table.inserted_steps


@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize("shape", [(2,), (9, 9)], ids=["small", "large"])
def test_unrolls_show_the_learner_what_the_actor_saw(stack, shape):
    table, actor, agent = run(Unrolls(4), Fifo(), stack, shape, batch_size=3)
    for turn in range(40):
        assert actor.step()
        batch = table.sample()
        assert np.array_equal(batch.data.obs[:-1].numpy(), np.stack(agent.seen[4 * turn :]))
        assert batch.data.action[:-1, 0].tolist() == list(range(4 * turn, 4 * turn + 4))
    assert not table.can_sample()

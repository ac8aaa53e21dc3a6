"""The actor: initial priorities that belong to their items, and weights that are copied at their time."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles.returns import initial_priority
from tests.replay.test_stacks import CountingFrames
from tests.replay.writers import Poisoned
from veldt.core import Acted, Place
from veldt.data import ActionSpec, ArraySpec, EnvSpec, Weights
from veldt.errors import ConfigError
from veldt.math.exploration import ConstantEpsilon
from veldt.math.priorities import NStepPriorities
from veldt.parts.actor import Actor
from veldt.replay.limiter import Limiter
from veldt.replay.selectors import Proportional
from veldt.replay.table import Table
from veldt.replay.views import Transitions

GAMMA, CLIP = 0.9, 100.0
NUMBER = ArraySpec((), "float32")
EXTRAS = {"q_taken": NUMBER, "q_value": NUMBER}
FIELDS = ("reward", "discount", "last", "q_taken", "q_value")


class Frames(CountingFrames):
    """Environments that cannot be saved, as emulators: a resumed actor starts new episodes."""

    def state_dict(self):
        return None

    def load_state_dict(self, state):
        return self.reset()


class Guessing(torch.nn.Module):
    """Values of an action that are another for every observation; one weight, which it shows as its action."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def initial_state(self, batch_size):
        return None

    def act(self, seen, state, exploration, random) -> Acted:
        obs = seen.obs
        action = np.full(len(obs), int(self.weight))
        return Acted(action, None, {"q_taken": np.sin(obs[:, 0]), "q_value": np.cos(obs[:, 0]), "not asked for": obs})


class Published:
    """Parameters whose weight is their version, published as the same tensor throughout."""

    def __init__(self) -> None:
        self.version, self.tensor = 0, torch.zeros(())

    def pull(self, held):
        return Weights((self.version,), {"weight": self.tensor}) if held != (self.version,) else None

    def publish(self, version: int) -> None:
        self.version = version
        self.tensor.fill_(version)


ENV = EnvSpec("Frames", partial(Frames, (2,)), ArraySpec((2,), "float32"), ActionSpec("discrete", (), "int64", (9,)))


class Diary:
    """What an actor wrote, all of it, and the priorities that the table's selector was given, by key."""

    def __init__(self, table: Table, streams: int) -> None:
        self.table, self.streams = table, streams
        self.rows: dict[str, list[np.ndarray]] = {name: [] for name in FIELDS}
        self.priorities: dict[int, float] = {}

    def watch(self, table: Table) -> None:
        """Looks over the shoulder of the selector of `table`."""
        self.table, insert = table, table._selector.insert

        def noting(actor, keys, priorities):
            assert not self.priorities.keys() & set(keys.tolist()), "an item came twice"
            self.priorities.update(zip(keys.tolist(), priorities.tolist(), strict=True))
            insert(actor, keys, priorities)

        table._selector.insert = noting

    def note(self, end: int) -> None:
        written = self.table.inlet(0).rows
        for row in range(len(self.rows["last"]), end):
            for name in FIELDS:
                self.rows[name].append(written[name][row % self.table.rows].copy())
            seen = written["obs"][row % self.table.rows, :, 0]
            np.testing.assert_array_equal(self.rows["q_value"][-1], np.cos(seen))  # of this row's observation, always

    def check(self, n: int) -> None:
        """Every item that ripened has its priority, and no other does."""
        rows = {name: np.array(values).reshape(-1, self.streams) for name, values in self.rows.items()}
        wanted = {
            row * self.streams + b: initial_priority(row, *(rows[name][:, b] for name in FIELDS), GAMMA, n, CLIP)
            for b in range(self.streams)
            for row in range(len(rows["last"]) - n)
            if not rows["last"][row, b]
        }
        assert self.priorities == pytest.approx(wanted, rel=1e-4, abs=1e-4)


def make(n, unroll, streams, capacity, parameters=None, pull_period_steps=None, max_lag_updates=None):
    table = Table(
        ENV.step_spec(EXTRAS), actors=1, streams=streams, unroll_steps=unroll, capacity_steps=capacity,
        view=Transitions(n, GAMMA, CLIP), selector=Proportional(1.0, 0.0), limiter=Limiter(None), batch_size=1,
        initial_priorities=NStepPriorities(n, GAMMA, CLIP), place=Place(arena=Poisoned),
    )  # fmt: skip
    return table, make_actor(table, n, unroll, streams, parameters, pull_period_steps, max_lag_updates)


def make_actor(table, n, unroll, streams, parameters=None, pull_period_steps=None, max_lag_updates=None):
    return Actor(
        Guessing, ENV, ConstantEpsilon(0.0), unroll_steps=unroll, streams=streams, pull_period_steps=pull_period_steps,
        initial_priorities=NStepPriorities(n, GAMMA, CLIP), max_lag_updates=max_lag_updates,
        memory=table, parameters=parameters or Published(), place=Place(),
    )  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 5), unroll=st.integers(1, 7), streams=st.integers(1, 3), extra=st.integers(0, 9),
       before=st.integers(0, 12), replay_is_saved=st.booleans())  # fmt: skip
def test_every_item_has_its_own_priority_at_the_start_after_a_wrap_and_after_a_resume(
    n, unroll, streams, extra, before, replay_is_saved
):
    capacity = streams * (n + 1 + unroll) + extra
    table, actor = make(n, unroll, streams, capacity)
    diary = Diary(table, streams)
    diary.watch(table)
    for turn in range(before):
        assert actor.step()
        diary.note((turn + 1) * unroll)
    diary.check(n)
    saved = copy.deepcopy((table.state_dict(), table.replay_state_dict(), actor.state_dict()))

    table, actor = make(n, unroll, streams, capacity)
    diary.watch(table)
    table.load_state_dict(saved[0])
    actor.load_state_dict(saved[2])
    if replay_is_saved:
        table.load_replay_state_dict(saved[1])
    else:  # what was not yet whole is lost, and nothing else
        table.refill()
        lost = range(streams * (before * unroll - n), streams * before * unroll)
        diary.priorities |= dict.fromkeys((key for key in lost if key >= 0), -1.0)
    for turn in range(before, before + 12):
        assert actor.step()
        diary.note((turn + 1) * unroll)
    if replay_is_saved:
        diary.check(n)
    else:
        assert set(diary.priorities) >= {
            row * streams + b for row in range(before * unroll, (before + 12) * unroll - n) for b in range(streams)
            if not diary.rows["last"][row][b]
        }  # fmt: skip


@pytest.mark.parametrize("unroll", [1, 4])
def test_the_items_of_an_actor_that_is_gone_are_rated_by_its_successor(unroll):
    table, actor = make(3, unroll, 2, 60)
    diary = Diary(table, 2)
    diary.watch(table)
    for turn in range(20):
        if turn in (1, 9):  # what the old one wrote before its last commit is in the ring; its episodes end there
            actor = make_actor(table, 3, unroll, 2)
        assert actor.step()
        diary.note((turn + 1) * unroll)
    diary.check(3)


def test_an_item_waits_for_the_row_that_its_priority_needs():
    """Row 0 of three steps is whole when row 3 was seen; its priority, when row 3 was acted at."""
    table, actor = make(3, 1, 1, 20)
    sizes = []
    for _ in range(4):
        actor.step()
        sizes.append(len(table))
    assert sizes == [0, 0, 0, 1]


def test_a_commit_with_too_few_priorities_is_refused():
    _, actor = make(1, 3, 1, 20)
    actor._initial_priorities = NStepPriorities(2, GAMMA, CLIP)  # not the one the table was told of
    with pytest.raises(ValueError, match="2 rows became whole, but only 1 have priorities"):
        actor.step()


def test_the_rows_that_priorities_need_count_when_a_replay_is_too_small():
    with pytest.raises(ConfigError, match=r"items of 4 steps in batches of 1, written 5 rows at a time, need 9"):
        make(3, 5, 1, 8)


def actions(table, rows):
    return [int(table.inlet(0).rows["action"][row % table.rows, 0]) for row in range(rows)]


def test_without_a_period_an_actor_follows_every_update_at_once():
    parameters = Published()
    table, actor = make(1, 2, 1, 40, parameters)
    for version in range(4):
        parameters.publish(version)
        actor.step()
    assert actions(table, 8) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_with_a_period_weights_are_copied_when_so_many_steps_have_passed_and_stay_until_then():
    parameters = Published()
    table, actor = make(1, 2, 3, 120, parameters, pull_period_steps=3)  # of each stream, whatever their number
    for version in range(7):
        parameters.publish(version)
        actor.step()
    assert actions(table, 14) == [0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6]


def test_a_resumed_actor_goes_on_with_its_copy_and_copies_when_it_would_have():
    parameters = Published()
    table, actor = make(1, 2, 1, 40, parameters, pull_period_steps=4)
    for version in range(3):
        parameters.publish(version)
        actor.step()
    resumed_table, resumed = make(1, 2, 1, 40, parameters, pull_period_steps=4)
    resumed_table.load_state_dict(table.state_dict())
    resumed.load_state_dict(copy.deepcopy(actor.state_dict()))
    parameters.publish(9)
    for _ in range(3):
        resumed.step()
        actor.step()
    assert actions(table, 12)[6:] == actions(resumed_table, 12)[6:] == [2, 2, 9, 9, 9, 9]


def test_an_actor_reports_how_many_updates_old_the_weights_behind_its_unrolls_were():
    parameters = Published()
    _table, actor = make(1, 2, 1, 40, parameters, pull_period_steps=100)
    for version in (0, 3, 7):
        parameters.publish(version)
        actor.step()
    assert actor.metrics() == {"exploration": 0, "policy_lag_updates": 10 / 3, "policy_lag_updates_max": 7}
    assert actor.metrics() == {"exploration": 0}  # no unroll since
    parameters.publish(9)
    actor.step()
    assert actor.metrics()["policy_lag_updates"] == 9


def test_an_unroll_of_weights_that_are_too_old_is_dropped_and_what_came_before_bootstraps_at_its_first_row():
    parameters = Published()
    table, actor = make(2, 4, 1, 80, parameters, pull_period_steps=12, max_lag_updates=3)
    for version in (0, 3):
        parameters.publish(version)
        actor.step()
    parameters.publish(4)
    with pytest.warns(UserWarning, match="^unroll 4 updates old; dropped$"):
        actor.step()
    actor.step()  # new weights, of version 4
    assert actions(table, 16) == [0] * 12 + [4] * 4
    assert actor.steps == table.inserted_steps == int(np.count_nonzero(~table.inlet(0).rows["last"][:16]))
    assert table.inlet(0).rows["last"][8:12].all()
    assert not {8, 9, 10, 11} & set(table._items.state_dict()["keys"].tolist())


def test_a_successor_does_not_repeat_the_random_numbers_of_those_before_it():
    lives = [Place(replica=replica, seed=3, life=life) for replica in (0, 1) for life in (0, 1, 2)]
    drawn = {
        tuple(child.generate_state(4)) for place in lives for child in (place.seeds("actor"), *place.seeds("actor").spawn(2))
    }
    assert len(drawn) == 18

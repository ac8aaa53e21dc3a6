"""Saved and loaded, a table hands out the same next 100 samples as one that was never interrupted."""

import copy

import numpy as np
import pytest
import torch

from tests.replay.writers import OBSERVATIONS, STATE, Poisoned, Writer, make_table
from veldt.core import Place
from veldt.data import tree_leaves
from veldt.replay.limiter import Limiter
from veldt.replay.selectors import Fifo, Proportional, Uniform
from veldt.replay.sequences import Sequences
from veldt.replay.views import Transitions, Unrolls
from veldt.runs.checkpoint import Checkpoints

VIEWS = {
    "1-step": Transitions(1, 0.99),
    "3-step": Transitions(3, 0.99, 1.0),
    "unrolls": Unrolls(3),
    "sequences": Sequences(3, 1, 2, marks=True),
}
SELECTORS = {
    "fifo": Fifo(),
    "fifo and old ones": Fifo(replay_share=0.5),
    "uniform": Uniform(),
    "proportional": Proportional(0.6, 0.4, 1.0, anneal_items=500),
    "independent": Proportional(1.0, 1.0, stratified=False),
}
WRITES = {"before the ring wraps": 3, "after it wrapped": 40}


def table_of(view, selector, seed=0, stack=2, kind="large bytes"):
    limiter = Limiter(None) if selector.startswith("fifo") else Limiter(4.0, 6)
    return make_table(
        VIEWS[view], SELECTORS[selector], OBSERVATIONS[kind], actors=2, limiter=limiter, frame_stack=stack,
        capacity_steps=72, batch_size=4, place=Place(seed=seed, arena=Poisoned), state=STATE,
    )  # fmt: skip


def drive(table, writers, turns, random):
    """`turns` times what is possible: one commit of each actor, one sample with new priorities. The samples."""
    samples = []
    for _ in range(turns):
        for writer in writers:
            if writer.inlet.can_insert():
                writer.insert(3)
        if table.can_sample():
            batch = table.sample()
            samples.append(copy.deepcopy(batch))
            table.update(batch.keys, 5 * random.random(len(batch)))
    return samples


def transplanted(writers, table):
    """The writers as they are, writing into another table."""
    moved = copy.deepcopy([{k: v for k, v in vars(w).items() if k not in ("table", "inlet")} for w in writers])
    twins = [object.__new__(Writer) for _ in writers]
    for actor, (twin, state) in enumerate(zip(twins, moved, strict=True)):
        vars(twin).update(state, table=table, inlet=table.inlet(actor))
    return twins


def same(one, other):
    assert one.keys.tolist() == other.keys.tolist()
    assert torch.equal(one.weights, other.weights)
    for name, value in vars(one.data).items():
        for ours, theirs in zip(tree_leaves(value), tree_leaves(getattr(other.data, name)), strict=True):
            # Row T of an unroll may hold what nobody has written yet: bytes, not numbers.
            assert ours is theirs is None or ours.numpy().tobytes() == theirs.numpy().tobytes()


def check_the_next_100_samples(table, restored, writers):
    twins = transplanted(writers, restored)
    ours, theirs = (drive(one, their, 130, np.random.default_rng(7)) for one, their in ((table, writers), (restored, twins)))
    assert len(ours) == len(theirs) >= 100
    for one, other in zip(ours[:100], theirs[:100], strict=True):
        same(one, other)


@pytest.mark.parametrize("turns", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("view", VIEWS)
def test_the_next_100_samples_of_a_loaded_table_are_those_of_the_saved_one(view, selector, turns):
    table = table_of(view, selector)
    writers = [Writer(table, actor, seed=4) for actor in range(2)]
    drive(table, writers, turns, np.random.default_rng(1))
    state, replay = copy.deepcopy(table.state_dict()), copy.deepcopy(table.replay_state_dict())
    restored = table_of(view, selector, seed=99)  # other random numbers, until they are loaded
    restored.load_state_dict(state)
    restored.load_replay_state_dict(replay)
    assert len(restored) == len(table)
    assert restored.inserted_steps == table.inserted_steps
    check_the_next_100_samples(table, restored, writers)


@pytest.mark.parametrize("kind", ["large bytes", "small floats"])
def test_a_checkpoint_on_disk_brings_a_table_back(tmp_path, kind):
    table = table_of("3-step", "proportional", kind=kind)
    writers = [Writer(table, actor, seed=4) for actor in range(2)]
    drive(table, writers, 40, np.random.default_rng(1))
    parts = {"weights": {"w": torch.zeros(1)}, "replay": table.state_dict()}
    Checkpoints(tmp_path, keep=1).save(7, parts, {"replay": table.replay_state_dict()})
    loaded = Checkpoints(tmp_path, keep=1).load_latest()
    restored = table_of("3-step", "proportional", seed=99, kind=kind)
    restored.load_state_dict(loaded.parts["replay"])
    restored.load_replay_state_dict(loaded.replay["replay"])
    check_the_next_100_samples(table, restored, writers)


def test_a_restored_state_is_the_state_that_was_saved():
    table = table_of("3-step", "proportional")
    writers = [Writer(table, actor, seed=4) for actor in range(2)]
    drive(table, writers, 40, np.random.default_rng(1))
    restored = table_of("3-step", "proportional", seed=99)
    restored.load_state_dict(copy.deepcopy(table.state_dict()))
    restored.load_replay_state_dict(copy.deepcopy(table.replay_state_dict()))
    for ours, theirs in (
        (table.state_dict(), restored.state_dict()),
        (table.replay_state_dict(), restored.replay_state_dict()),
    ):
        assert repr(ours) == repr(theirs)

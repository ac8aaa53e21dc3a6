"""Streams store rows and give them back; what cannot fit is refused with the numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.replay.writers import OBSERVATIONS, Poisoned, make_table, step_spec
from veldt.core import Place, PrivateArena
from veldt.data import ArraySpec, tree_from_items, tree_items
from veldt.errors import ResourceError
from veldt.replay import streams
from veldt.replay.selectors import Uniform
from veldt.replay.streams import PACKED_BYTES, Streams, require_memory, step_bytes
from veldt.replay.views import Transitions

dtypes = st.sampled_from(["bool", "uint8", "int32", "int64", "float32", "float64", "float16", "int8"])
leaves = st.builds(ArraySpec, st.lists(st.integers(1, 12), max_size=3).map(tuple), dtypes)
trees = st.one_of(leaves, st.dictionaries(st.sampled_from(["a", "b", "eye"]), leaves, min_size=1, max_size=3))


def values_for(leaf: ArraySpec, random: np.random.Generator, *leading: int) -> np.ndarray:
    return random.integers(0, 2 if leaf.dtype == "bool" else 100, (*leading, *leaf.shape)).astype(leaf.dtype)


@given(observation=trees, extra=leaves, rows=st.integers(1, 9), columns=st.integers(1, 4), seed=st.integers(0, 99))
def test_what_a_writer_puts_into_its_columns_is_what_is_gathered(observation, extra, rows, columns, seed):
    random, spec = np.random.default_rng(seed), step_spec(observation, logits=extra)
    ring = Streams(spec, rows, columns, Poisoned())
    written = {path: values_for(leaf, random, rows, columns) for path, leaf in tree_items(spec)}
    for column in range(columns):
        for path, room in tree_items(ring.columns_of(column, column + 1)):
            assert room.shape[:2] == (rows, 1)
            room[...] = written[path][:, column : column + 1]
    slots = random.integers(-ring.slots, 2 * ring.slots, 11)  # modulo the ring
    out = ring.empty_records(11)
    ring.gather_records(slots, out)
    for path, leaf in tree_items(spec):
        wanted = written[path].reshape(-1, *leaf.shape)[slots % ring.slots]
        if leaf.nbytes > PACKED_BYTES:
            room = torch.from_numpy(np.empty((11, *leaf.shape), leaf.dtype))
            ring.gather_large(path, slots, room)
            assert np.array_equal(room.numpy(), wanted)
        else:
            assert np.array_equal(out[path], wanted)
            assert path not in ring.large


@given(observation=trees, rows=st.integers(1, 50), columns=st.integers(1, 4))
def test_the_memory_that_is_computed_is_the_memory_that_is_allocated(observation, rows, columns):
    asked = []

    class Counting:
        def allocate(self, nbytes):
            asked.append(nbytes)
            return np.empty(nbytes, np.uint8)

    spec = step_spec(observation)
    ring = Streams(spec, rows, columns, Counting())
    assert sum(asked) == ring.nbytes == rows * columns * step_bytes(spec)
    stored = sum(leaf.nbytes for _, leaf in tree_items(spec))
    assert stored <= step_bytes(spec) < stored + 16 + 8 * len(list(tree_items(spec)))


def test_a_step_of_atari_takes_little_more_than_its_frame():
    assert step_bytes(step_spec(ArraySpec((84, 84), "uint8"))) == 84 * 84 + 24


def test_what_cannot_fit_is_refused_with_the_numbers_before_anything_is_allocated(monkeypatch):
    monkeypatch.setattr(streams, "available_bytes", lambda: 2_000_000_000)

    spec = step_spec(ArraySpec((84, 84), "uint8"))
    with pytest.raises(ResourceError) as error:
        require_memory(spec, 1_000_000)
    assert str(error.value) == (
        "replay of 1,000,000 steps needs 7.1 GB (7,080 bytes a step); 2.0 GB are free: at most 254,237 steps fit"
    )
    monkeypatch.setattr(streams, "available_bytes", lambda: 10 * 7080 - 1)
    with pytest.raises(ResourceError):
        require_memory(spec, 10)
    monkeypatch.setattr(streams, "available_bytes", lambda: 10 * 7080)
    require_memory(spec, 10)
    monkeypatch.setattr(streams, "available_bytes", lambda: None)
    require_memory(spec, 10)  # a machine that does not say how much it has


def test_a_table_that_cannot_fit_is_refused_before_anything_is_allocated(monkeypatch):
    monkeypatch.setattr(streams, "available_bytes", lambda: 1_000)

    class Never:
        def allocate(self, nbytes):
            raise AssertionError("allocated")

    with pytest.raises(ResourceError):
        make_table(Transitions(1, 0.9), Uniform(), place=Place(arena=Never))


def test_streams_on_a_copy_of_the_arena_are_the_same_streams():
    class Kept:
        def __init__(self, pieces=None):
            self.pieces, self.given = pieces if pieces is not None else [], 0

        def allocate(self, nbytes):
            if self.given == len(self.pieces):
                self.pieces.append(np.zeros(nbytes, np.uint8))
            self.given += 1
            return self.pieces[self.given - 1]

    arena = Kept()
    table = make_table(Transitions(1, 0.9), Uniform(), place=Place(arena=lambda: arena), actors=2)
    ring = table.ring(1)
    opened = replace(ring, arena=Kept(arena.pieces)).open().rows
    opened["reward"][5, 1] = 7.0
    assert table.inlet(1).rows["reward"][5, 1] == 7.0
    assert not table.inlet(0).rows["reward"].any()


def test_this_machine_says_how_much_memory_it_has():
    assert streams.available_bytes() > 1e6


@pytest.mark.parametrize("kind", sorted(OBSERVATIONS))
@pytest.mark.parametrize("written", [3, 10, 17])
def test_the_rows_ever_written_are_saved_and_come_back(kind, written):
    spec = step_spec(OBSERVATIONS[kind])
    ring, other = Streams(spec, 10, 2, PrivateArena()), Streams(spec, 10, 2, Poisoned())
    random = np.random.default_rng(0)
    for row in range(written):
        for path, room in tree_items(ring.columns_of(0, 2)):
            room[row % 10] = values_for(dict(tree_items(spec))[path], random, 2)
    state = ring.state_dict(written)
    assert len(state["records"]) == 2 * min(written, 10)
    other.load_state_dict(state)
    both = (dict(tree_items(stream.columns_of(0, 2))) for stream in (ring, other))
    ours, theirs = both
    for path in ours:
        assert np.array_equal(ours[path][: min(written, 10)], theirs[path][: min(written, 10)])


def test_the_tree_of_columns_has_the_shape_of_the_spec():
    tree = {"image": ArraySpec((20, 20), "uint8"), "deep": {"x": ArraySpec((), "float32")}}
    spec = step_spec(tree)
    columns = Streams(spec, 3, 4, PrivateArena()).columns_of(1, 3)
    assert [path for path, _ in tree_items(columns)] == [path for path, _ in tree_items(spec)]
    assert tree_from_items(spec, {path: room.shape for path, room in tree_items(columns)})["obs"] == {
        "image": (3, 2, 20, 20), "deep": {"x": (3, 2)},
    }  # fmt: skip

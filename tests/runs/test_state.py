"""A state taken apart and put together is the same state, to the bit."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from veldt.runs.arrays import Entry, pieces_of, read_arrays, safetensors_header, table_of
from veldt.runs.files import write_stream
from veldt.runs.state import join, split

DTYPES = ["?", "u1", "i2", "<i8", ">i4", "f2", "f4", "<f8", "c8", "<U3", "S2", "<M8[ns]"]
TENSOR_DTYPES = [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64, torch.complex64]

shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
arrays = st.tuples(st.sampled_from(DTYPES), shapes).map(
    lambda made: np.arange(int(np.prod(made[1]))).astype(made[0]).reshape(made[1])
)
tensors = st.tuples(st.sampled_from(TENSOR_DTYPES), shapes).map(
    lambda made: torch.arange(int(np.prod(made[1]))).reshape(made[1]).to(made[0])
)
scalars = st.sampled_from([np.float32(0.1), np.int64(-3), np.bool_(True), np.uint8(255), np.float64("nan"), np.str_("é")])
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**64, max_value=2**130)
    | st.floats()
    | st.text(max_size=5)
    | arrays
    | tensors
    | scalars
)
keys = st.text(max_size=4) | st.sampled_from(["$array", "a/b", "", "$"])
states = st.dictionaries(
    keys,
    st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=2).map(tuple)
            | st.dictionaries(keys, inner, max_size=3)
            | st.dictionaries(st.integers(), inner, max_size=2)
        ),
        max_leaves=8,
    ),
    max_size=4,
)


def same(a, b) -> bool:
    """Equal in type, dtype, shape and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (np.ndarray, np.generic)):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, torch.Tensor):
        bits = [t.contiguous().reshape(-1).view(torch.uint8).tolist() if t.numel() else [] for t in (a, b)]
        return a.dtype == b.dtype and a.shape == b.shape and bits[0] == bits[1]
    return repr(a) == repr(b)


def through_files(state, path):
    skeleton, parts = split(state)
    table = table_of(parts)
    text = json.dumps({"skeleton": skeleton, "table": table}, allow_nan=False)
    path.unlink(missing_ok=True)
    write_stream(path, [safetensors_header(table), *pieces_of(parts, table)])
    loaded = json.loads(text)
    entries = {name: Entry(e[0], tuple(e[1]), e[2], e[3]) for name, e in loaded["table"].items()}
    return join(loaded["skeleton"], read_arrays(path, entries))


@settings(max_examples=200, deadline=None)
@given(state=states)
def test_any_state_comes_back_the_same_to_the_bit(state, tmp_path_factory):
    assert same(through_files(state, tmp_path_factory.getbasetemp() / "state.safetensors"), state)


def test_random_states_of_numpy_go_on_where_they_were(tmp_path):
    generator = np.random.Generator(np.random.PCG64(7))
    state = through_files({"random": generator.bit_generator.state}, tmp_path / "a")
    expected = generator.random(5)
    other = np.random.default_rng(0)
    other.bit_generator.state = state["random"]
    np.testing.assert_array_equal(other.random(5), expected)


def test_an_optimiser_of_torch_comes_back_as_it_is(tmp_path):
    weight = torch.nn.Parameter(torch.ones(3, 2))
    optimiser = torch.optim.Adam([weight], lr=1e-4)
    (weight**2).sum().backward()
    optimiser.step()
    assert same(through_files(optimiser.state_dict(), tmp_path / "a"), optimiser.state_dict())


def test_non_contiguous_memory_comes_back_with_its_values(tmp_path):
    state = {"a": np.arange(12).reshape(3, 4).T[::2], "t": torch.arange(12).reshape(3, 4).t()}
    back = through_files(state, tmp_path / "a")
    np.testing.assert_array_equal(back["a"], state["a"])
    assert torch.equal(back["t"], state["t"])


def test_weights_that_share_memory_are_saved_under_both_names(tmp_path):
    flat = torch.arange(6.0)
    back = through_files({"whole": flat, "part": flat[2:4]}, tmp_path / "a")
    assert back["part"].tolist() == [2.0, 3.0]
    assert back["whole"].tolist() == flat.tolist()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": {"b": object()}}, "cannot save a/b: object is not data"),
        ({"a": [1, {2, 3}]}, "cannot save a/1: set is not data"),
        ({"a": np.array([object()])}, "cannot save a: its ndarray is not plain memory"),
        ({"a": np.ma.masked_array([1], [True])}, "cannot save a: its MaskedArray is not plain memory"),
        ({"a": torch.eye(2).to_sparse()}, "cannot save a: its Tensor is not plain memory"),
        ({"a": {(1, 2): 3}}, r"cannot save a: key \(1, 2\) is neither a string nor an integer"),
    ],
)
def test_what_is_not_data_is_refused_with_its_path(state, message):
    with pytest.raises(TypeError, match=message):
        split(state)


def test_a_table_that_asks_for_objects_is_refused(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes(8))
    with pytest.raises(ValueError, match=r"not plain memory"):
        read_arrays(path, {"a": Entry("|O", (1,), 0, 8)})

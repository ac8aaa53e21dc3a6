"""The LSTM core against one step at a time, with resets anywhere."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from veldt.data import tree_map
from veldt.networks.cores import FEWEST_FUSED_ROWS, LSTMCore


def step_by_step(core, inputs, state, first):
    """The definition: forget, then read, one row and one stream at a time, by the equations of the LSTM."""
    weights, outputs = core.lstm.all_weights[0], []
    hidden, cell = state["h"].clone(), state["c"].clone()
    for row, starts in zip(inputs, first, strict=True):
        for b in range(len(row)):
            if starts[b]:
                hidden[b], cell[b] = 0, 0
        gates = row @ weights[0].T + weights[2] + hidden @ weights[1].T + weights[3]
        enter, forget, new, out = gates.chunk(4, dim=-1)
        cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
        hidden = out.sigmoid() * cell.tanh()
        outputs.append(hidden)
        hidden, cell = hidden.clone(), cell.clone()
    return torch.stack(outputs), {"c": cell, "h": hidden}


def no_state(core, batch_size):
    spec = LSTMCore.state_spec(core.lstm.hidden_size)
    return tree_map(lambda leaf: torch.from_numpy(leaf.zeros(batch_size)), spec)


def random_state(core, batch_size):
    return tree_map(torch.randn_like, no_state(core, batch_size))


@settings(deadline=None, max_examples=50)
@given(
    steps=st.integers(1, 3 * FEWEST_FUSED_ROWS),
    seed=st.integers(0, 10**6),
    often=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
)
def test_an_unroll_with_resets_is_the_loop_over_its_rows(steps, seed, often):
    torch.manual_seed(seed)
    core = LSTMCore(3, 4)
    inputs, first, state = torch.randn(steps, 2, 3), torch.rand(steps, 2) < often, random_state(core, 2)
    with torch.no_grad():
        got, got_state = core(inputs, state, first)
        slow, slow_state = step_by_step(core, inputs, state, first)
    torch.testing.assert_close(got, slow)
    torch.testing.assert_close(got_state, slow_state)


@pytest.mark.parametrize("cut", [1, 4, 7, 11])
def test_an_unroll_in_two_pieces_is_the_unroll_in_one(cut):
    torch.manual_seed(3)
    core = LSTMCore(3, 4)
    inputs, first, state = torch.randn(12, 2, 3), torch.rand(12, 2) < 0.2, random_state(core, 2)
    whole, end = core(inputs, state, first)
    head, between = core(inputs[:cut], state, first[:cut])
    tail, end_of_two = core(inputs[cut:], between, first[cut:])
    torch.testing.assert_close(torch.cat([head, tail]), whole)
    torch.testing.assert_close(end_of_two, end)


@pytest.mark.parametrize("row", [0, 2, 9])
def test_nothing_before_a_first_row_reaches_it_neither_forward_nor_backward(row):
    torch.manual_seed(4)
    core = LSTMCore(3, 4)
    inputs, state = torch.randn(10, 2, 3, requires_grad=True), random_state(core, 2)
    state["h"].requires_grad_()
    first = torch.zeros(10, 2, dtype=torch.bool)
    first[row, 0] = True
    output, _ = core(inputs, state, first)
    output[-1, 0].sum().backward(retain_graph=True)
    assert inputs.grad[:row, 0].abs().sum() == 0
    assert inputs.grad[row:, 0].abs().min() > 0
    assert state["h"].grad[0].abs().sum() == 0
    alone, _ = core(inputs[row:, :1], no_state(core, 1), torch.zeros(10 - row, 1, dtype=torch.bool))
    torch.testing.assert_close(output[row:, :1], alone)


def test_reading_does_not_change_the_state_it_was_given():
    core = LSTMCore(3, 4)
    state = random_state(core, 2)
    kept = tree_map(torch.clone, state)
    core(torch.randn(2, 2, 3), state, torch.ones(2, 2, dtype=torch.bool))
    torch.testing.assert_close(state, kept, rtol=0, atol=0)


def test_it_begins_by_keeping_what_it_holds():
    """The forget gate of an untrained core lets sigmoid(1), about 0.73, of a cell through, give or take its small weights."""
    torch.manual_seed(0)
    core = LSTMCore(3, 64)
    state = {"c": torch.ones(1, 64), "h": torch.zeros(1, 64)}
    with torch.no_grad():
        _, after = core(torch.zeros(1, 1, 3), state, torch.zeros(1, 1, dtype=torch.bool))
    assert abs(float(after["c"].mean()) - 0.73) < 0.05

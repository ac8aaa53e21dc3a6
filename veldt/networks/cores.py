"""Recurrent cores: an LSTM over time-major rows that forgets before it reads the first row of an episode.

Refuses nothing: shapes are the caller's contract.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from veldt.data import ArraySpec

State = dict[str, torch.Tensor]

FEWEST_FUSED_ROWS = 5
"""Shorter runs of rows go cell by cell: torch's fused LSTM has a fixed cost of about that many cells on a CPU."""


class LSTMCore(nn.Module):
    """One LSTM layer of `units` cells. Its state is {"c", "h"}, each float32 [B, units], zeros as an episode starts.

    It begins by keeping what it holds: the bias of its forget gates is 1 above torch's, as in the LSTMs of TensorFlow and Sonnet that
    the papers' authors used (Jozefowicz et al. 2015, section 3). Without that half of a cell is forgotten at each row.
    """

    def __init__(self, features: int, units: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, units)
        forget_bias = dict(self.lstm.named_parameters())["bias_ih_l0"].detach()[units : 2 * units]
        forget_bias += 1.0  # torch's order of gates is input, forget, cell, output

    @staticmethod
    def state_spec(units: int) -> dict[str, ArraySpec]:
        """What one stream carries from row to row."""
        return {"c": ArraySpec((units,), "float32"), "h": ArraySpec((units,), "float32")}

    def forward(self, inputs: torch.Tensor, state: State, first: torch.Tensor) -> tuple[torch.Tensor, State]:
        """Reads T rows: the outputs, float32 [T, B, units], and the state after the last one.

        inputs: float32 [T, B, features]; state: before row 0, unless first[0] forgets it; first: bool [T, B].

        The state entering row t is zeroed where first[t], before the row is read. Rows between resets
        run together, so the cost grows with the number of rows in which any stream starts an episode.
        """
        starts = {row for row, starts_one in enumerate(first.any(dim=1).tolist()) if starts_one}
        bounds = [0, *sorted(starts - {0}), len(inputs)]
        hidden, cell = state["h"], state["c"]
        outputs = []
        for begin, end in pairwise(bounds):
            if begin in starts:
                forget = first[begin].unsqueeze(-1)
                hidden, cell = hidden.masked_fill(forget, 0.0), cell.masked_fill(forget, 0.0)
            output, hidden, cell = self._run(inputs[begin:end], hidden, cell)
            outputs.append(output)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs), {"c": cell, "h": hidden}

    def _run(
        self, inputs: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows without a reset: (outputs [T, B, units], hidden [B, units], cell [B, units])."""
        if len(inputs) >= FEWEST_FUSED_ROWS:
            output, (last_hidden, last_cell) = self.lstm(inputs, (hidden.unsqueeze(0), cell.unsqueeze(0)))
            return output, last_hidden[0], last_cell[0]
        rows = []
        for row in inputs.unbind():
            hidden, cell = torch.lstm_cell(row, (hidden, cell), *self.lstm.all_weights[0])
            rows.append(hidden)
        return torch.stack(rows), hidden, cell

"""Demonstrations as a part of a program: a dataset, read once into a table of its own that nobody writes to and nobody evicts from.

Episodes are written into one stream, one behind the other, as an actor would have written them: rewards as they are, the final
observation of each, discount 0 where it terminated. So the same view cuts the same sequences from them. What only an acting agent can
record is 0; recurrent states there are none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from veldt.core import Place, PrivateArena, State
from veldt.data import EPISODE_STEP, ArraySpec, EnvSpec, tree_leaves
from veldt.demos.datasets import Demonstration, damaged, demonstrations, open_dataset
from veldt.errors import RunFolderError
from veldt.replay.limiter import Limiter
from veldt.replay.selectors import Selected, Selector
from veldt.replay.table import Table, TableInlet
from veldt.replay.views import View


class Demonstrations:
    """The demonstrations of one dataset, for a `replay.mixture.Mixture`. New ones are as likely as the most surprising one seen."""

    def __init__(
        self,
        dataset: str,
        env: EnvSpec,
        extras: Mapping[str, ArraySpec],
        *,
        view: View,
        selector: Selector,
        batch_size: int,
        place: Place,
    ) -> None:
        """Args:
        dataset: the name of a Minari dataset.
        env: the environment that it has to be of.
        extras: what actors record for the objective; here 0.
        view: what an item is.
        selector: which demonstration comes next.
        batch_size: the largest number of them that is wanted at once.
        place: seeds the selector.

        Raises:
            DatasetRefused: the dataset is not there, empty, damaged, of another environment, or has other spaces.
            ResourceError: the machine has less memory than it needs.
        """
        found = open_dataset(dataset)
        self.name = found.name
        rows = found.step_count + found.episode_count
        window = view.window_steps
        self._table = Table(
            env.step_spec(extras), actors=1, streams=1, unroll_steps=1, view=view, selector=selector, limiter=Limiter(None),
            capacity_steps=max(rows + window + view.spread_steps, batch_size), batch_size=batch_size, role="demonstrations",
            frame_stack=env.frame_stack, place=replace(place, arena=PrivateArena),
        )  # fmt: skip
        self.streams = self._table.streams
        inlet = self._table.inlet(0)
        _clear(inlet)
        row = 0
        for episode in demonstrations(found, env):
            if row + len(episode) + 1 > rows:
                raise damaged(found.name, f"it has more than the {found.step_count:,} steps that it says")
            _write(inlet, row, episode)
            row += len(episode) + 1
        inlet.commit(row + window)  # the last episode is whole too when as many void rows follow it

    def __len__(self) -> int:
        return len(self._table)

    def select(self, count: int) -> Selected:
        """See `Table.select`."""
        return self._table.select(count)

    def update(self, keys: np.ndarray, priorities: np.ndarray) -> None:
        """New priorities [K] for the demonstrations of `keys` [K]."""
        self._table.update(keys, priorities)

    def replay_state_dict(self) -> State:
        """Which of them comes next. What they are stands in their dataset."""
        return self._table.selection_state_dict()

    def load_replay_state_dict(self, state: State) -> None:
        """The priorities of `replay_state_dict`.

        Raises:
            RunFolderError: the dataset has other sequences than when the run was saved.
        """
        own, saved = self._table.selection_state_dict()["items"]["keys"], state["items"]["keys"]
        if not np.array_equal(own, saved):
            raise RunFolderError(
                f"cannot resume: the dataset {self.name!r} gives {len(own)} items, and {len(saved)} when the run was saved: it has changed"
            )
        self._table.load_selection_state_dict(state)

    def refill(self) -> None:
        """Nothing to do: demonstrations are read again whenever a run starts."""


def _clear(inlet: TableInlet) -> None:
    """All rows void, and nothing in them."""
    for field in tree_leaves(dict(inlet.rows)):
        field[:] = 0
    for name in ("first", "last"):
        inlet.rows[name][:] = True


def _write(inlet: TableInlet, row: int, episode: Demonstration) -> None:
    """An episode from absolute row `row` on, its final observation in the row behind its last step."""
    fields, end = inlet.rows, row + len(episode)
    for room, leaf in zip(tree_leaves(fields["obs"]), tree_leaves(episode.obs), strict=True):
        room[row : end + 1, 0] = leaf
    fields["first"][row + 1 : end + 1] = False
    fields["last"][row:end] = False
    fields["action"][row:end, 0] = episode.action
    fields["reward"][row:end, 0] = episode.reward
    fields["discount"][row : end + 1] = 1
    fields["discount"][end - 1] = 0 if episode.terminated else 1
    if EPISODE_STEP in fields:
        fields[EPISODE_STEP][row : end + 1, 0] = np.arange(len(episode) + 1)

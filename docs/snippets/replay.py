"""Replay on its own: prioritized three-step transitions of a random walk, without an agent or an environment library."""

import numpy as np

from veldt.data import ArraySpec
from veldt.replay.limiter import Limiter
from veldt.replay.selectors import Proportional
from veldt.replay.table import Table
from veldt.replay.views import Transitions

STREAMS, UNROLL_STEPS, EPISODE_STEPS = 8, 4, 20

table = Table(
    {
        "obs": ArraySpec((4,), "float32"),
        "first": ArraySpec((), "bool"),
        "last": ArraySpec((), "bool"),
        "action": ArraySpec((), "int64"),
        "reward": ArraySpec((), "float32"),
        "discount": ArraySpec((), "float32"),
    },
    actors=1,
    streams=STREAMS,
    unroll_steps=UNROLL_STEPS,  # rows between two commits
    capacity_steps=10_000,
    view=Transitions(n_steps=3, discount=0.99),  # what an item is
    selector=Proportional(exponent=0.6, importance_exponent=0.4),  # which comes next
    limiter=Limiter(samples_per_insert=8.0, start_steps=1_000),  # when
    batch_size=32,
)
inlet = table.inlet(0)
rows, ring = inlet.rows, inlet.ring_rows
random = np.random.default_rng(0)
walk = np.zeros((STREAMS, 4), np.float32)


def observe(row: int) -> None:
    """What is seen at `row`. An episode is 20 steps and one more row: its final observation, at which nobody acts."""
    moment = row % (EPISODE_STEPS + 1)
    walk[:] = 0.0 if moment == 0 else walk + random.normal(size=walk.shape)
    rows["obs"][row % ring] = walk
    rows["first"][row % ring] = moment == 0
    rows["last"][row % ring] = moment == EPISODE_STEPS


def act(row: int) -> None:
    """What is done at `row`, and what follows it. Discount 0: this action ended the episode."""
    rows["action"][row % ring] = random.integers(0, 2, STREAMS)
    rows["reward"][row % ring] = walk.sum(axis=1)
    rows["discount"][row % ring] = row % (EPISODE_STEPS + 1) != EPISODE_STEPS - 1


row = batches = 0
observe(row)
while batches < 50:
    if inlet.can_insert():
        for _ in range(UNROLL_STEPS):
            act(row)
            row += 1
            observe(row)
        inlet.commit(row)  # rows before this one are whole; this one has been seen
    if table.can_sample():
        batch = table.sample()
        error = batch.data.reward.numpy()  # here a learner would compute its TD errors
        table.update(batch.keys, np.abs(error) + 0.1)
        batches += 1

print(f"{len(table):,} items in {table.nbytes / 1e6:.1f} MB; {table.waiting_for()}")
print("next_obs", list(batch.data.next_obs.shape), "discounts", sorted({round(g, 4) for g in batch.data.discount.tolist()}))

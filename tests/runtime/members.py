"""A member of a team in a process of its own that starts fast: it imports nothing else."""

from __future__ import annotations

import time

import torch

from veldt.runtime.team import Invitation, Member

PATIENCE_SECONDS = 300.0


def gives(invitation: Invitation, vectors: list[list[float]]) -> None:
    """A member in a process of its own: gives one vector after the other, and ends when the last mean is there."""
    member = invitation()
    for vector in vectors:
        member.give(torch.tensor(vector))
        taken(member)


def taken(member: Member) -> torch.Tensor:
    """The mean, as soon as it is there."""
    until = time.monotonic() + PATIENCE_SECONDS
    while (mean := member.take()) is None:
        assert time.monotonic() < until, "no mean"
        time.sleep(0.01)
    return mean

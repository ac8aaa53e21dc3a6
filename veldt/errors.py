"""The error tree: every exception that Veldt raises on purpose.

    VeldtError
    ├── UserError             the request is wrong; exit status 2, no traceback, nothing was started
    │   ├── ConfigError       a setting: unknown, of the wrong type, out of range, contradictory
    │   ├── EnvironmentRefused an environment that cannot be made, or breaks Gymnasium's contract
    │   ├── DatasetRefused    demonstrations that are not there, damaged, or of another environment
    │   ├── ResourceError     what was asked for does not fit this machine
    │   └── RunFolderError    a run folder or checkpoint that cannot be used as asked
    └── RunError              a started run cannot go on; exit status 1
        ├── Stalled           no part can make progress; quotes what each one waits for
        ├── EnvironmentFailed an environment failed more often than the restart budget allows
        ├── WorkersLost       all processes of one kind failed more often than the restart budget allows
        └── Diverged          losses or gradients stopped being finite

A message says what was wrong, the value seen, and what would be right. It is written for the user, who
has not read this code.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class VeldtError(Exception):
    """Base of all errors that Veldt raises on purpose."""

    exit_status = 1


class UserError(VeldtError):
    """The request is wrong. Raised before any process starts; exit status 2."""

    exit_status = 2


class ConfigError(UserError):
    """A setting is unknown, of the wrong type, out of range, or contradicts another."""


class EnvironmentRefused(UserError):
    """An environment cannot be made, or does not keep Gymnasium's contract."""


class DatasetRefused(UserError):
    """A dataset of demonstrations is not there, empty, damaged, or does not fit the environment."""


class ResourceError(UserError):
    """What was asked for does not fit this machine (memory, shared memory, device)."""


class RunFolderError(UserError):
    """A run folder or a checkpoint cannot be used as asked."""


class RunError(VeldtError):
    """A started run cannot go on; exit status 1."""


class Stalled(RunError):
    """No part can make progress. The message quotes every part's `waiting_for()`."""


class EnvironmentFailed(RunError):
    """An environment failed more often than its restart budget allows."""


class WorkersLost(RunError):
    """All processes of one kind failed more often than their restart budget allows."""


class Diverged(RunError):
    """Losses or gradients were not finite for too many updates in a row."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest known word, or an empty string if nothing is near."""
    nearest = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def require_between(name: str, value: float, low: float, high: float) -> None:
    """Raises `ConfigError` unless `low <= value <= high`."""
    if not low <= value <= high:
        raise ConfigError(f"{name} must lie in [{low:g}, {high:g}], got {value:g}")


def require_at_least(name: str, value: float, least: float, unit: str = "") -> None:
    """Raises `ConfigError` unless `value >= least`."""
    if not value >= least:
        raise ConfigError(f"{name} must be >= {least:g}{unit}, got {value:g}")

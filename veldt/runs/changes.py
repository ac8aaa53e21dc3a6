"""What differs between two configs, and whether a run may be resumed in spite of it.

Refused: resuming a run whose network or environment changed, since its weights and experience would not fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from veldt.errors import RunFolderError

UNSET = "unset"


class Difference(NamedTuple):
    """One setting that changed: its dotted key, and both values, `UNSET` where there was none."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key} {self.old}→{self.new}"


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Difference]:
    """The settings in which two nested configs differ, in the order of `old`. A tuple equals the list of its items."""
    return list(_walk("", old, new))


def refuse_changes(old: Mapping[str, Any], new: Mapping[str, Any], fixed: Sequence[str]) -> None:
    """Raises `RunFolderError` if a setting below one of the dotted keys `fixed`, such as `network`, has changed."""
    changed = [
        str(difference)
        for difference in differences(old, new)
        if any(f"{difference.key}.".startswith(f"{key}.") for key in fixed)
    ]
    if changed:
        verb = "differs" if len(changed) == 1 else "differ"
        raise RunFolderError(f"cannot resume: {', '.join(changed)} {verb}; start a new run or --init-from")


def _walk(prefix: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Difference]:
    for key in [*old, *(key for key in new if key not in old)]:
        before, after = _plain(old.get(key, UNSET)), _plain(new.get(key, UNSET))
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _walk(f"{prefix}{key}.", before, after)
        elif before != after:
            yield Difference(f"{prefix}{key}", before, after)


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value

"""Where a run stands: one immutable picture of it, which displays draw and the final summary reads."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """Counts since the run began, speeds of the last seconds, and what the parts say.

    seconds are wall time, without the time between a stop and its resume. return_mean is over the last 100 training episodes.
    shares: fraction of the time that each part of the loop took.
    """

    steps: int
    total_steps: int
    updates: int
    episodes: int
    seconds: float
    steps_per_second: float
    updates_per_second: float
    return_mean: float | None
    evaluation_mean: float | None
    best_mean: float | None
    values: dict[str, float] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)

    @property
    def seconds_left(self) -> float | None:
        """Until `total_steps`, at the present speed."""
        if self.steps_per_second <= 0:
            return None
        return max(self.total_steps - self.steps, 0) / self.steps_per_second


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `5 h 12 min`, `2 d 3 h`."""
    whole = round(seconds)
    for unit, size, lower, lower_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // lower_size} {lower}"
    return f"{whole} s"


def bottleneck(shares: dict[str, float]) -> str:
    """What bound the run's speed, in words, and what would change it."""
    if not shares:
        return "too short to tell"
    name = max(shares, key=lambda key: shares[key])
    advice = {
        "learning": "fewer updates for each step, a smaller network or more --threads would be faster",
        "sampling replay": "smaller batches or fewer updates for each step would be faster",
        "environment": "more --environments stepped together, or a faster environment, would be faster",
        "inference": "more --environments share one forward pass: that, or a smaller network, would be faster",
        "evaluation": "fewer --eval-episodes or a larger --eval-every-steps would be faster",
    }
    parts = ", ".join(f"{key} {share:.0%}" for key, share in sorted(shares.items(), key=lambda item: -item[1]))
    return f"{name} ({parts}); {advice[name]}" if name in advice else f"{name} ({parts})"

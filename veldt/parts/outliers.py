"""The outlier filter of Gorila's learners: gradients of a loss far above those seen so far are not pushed.

A loss is an outlier if its absolute value lies more than `deviations` standard deviations above the mean of the absolute
losses before it. Mean and deviation are those of *all* losses, the discarded ones too: over the kept ones alone the limit
could only sink, until everything were an outlier. The deviation is the population's (divided by n, not n - 1).
Source: Nair et al. 2015 (Gorila), which says "several" deviations and leaves warm-up and floor open.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from veldt.core import State
from veldt.errors import ConfigError


@dataclass(frozen=True)
class Outliers:
    """Settings of the filter.

    deviations: standard deviations above the mean from which on a loss is an outlier.
    warm_up_losses: losses before the first that may be one.
    least_deviation: a smaller deviation counts as this: losses that are all alike must not make the next an outlier.
    """

    deviations: float
    warm_up_losses: int
    least_deviation: float

    def __post_init__(self) -> None:
        if not self.deviations > 0:
            raise ConfigError(f"outlier_deviations must be > 0 (or none: no filter), got {self.deviations}")
        if self.warm_up_losses < 1:
            raise ConfigError(f"outlier_warm_up_losses must be >= 1, got {self.warm_up_losses}")
        if not self.least_deviation > 0:
            raise ConfigError(f"the least deviation of an outlier filter must be > 0, got {self.least_deviation}")

    def build(self) -> RunningOutliers:
        """The running filter of one learner."""
        return RunningOutliers(self)


class RunningOutliers:
    """Mean and deviation of the absolute losses of one learner, kept by Welford's recursion."""

    def __init__(self, settings: Outliers) -> None:
        self.settings = settings
        self.count, self.mean, self._squares = 0, 0.0, 0.0

    @property
    def deviation(self) -> float:
        """The population standard deviation of the losses so far, or the floor."""
        return max(sqrt(self._squares / max(self.count, 1)), self.settings.least_deviation)

    @property
    def limit(self) -> float:
        """Losses above are outliers."""
        return self.mean + self.settings.deviations * self.deviation

    def is_outlier(self, loss: float) -> bool:
        """Whether the finite `loss` is one, measured by those before it; it is noted in any case."""
        size = abs(loss)
        found = self.count >= self.settings.warm_up_losses and size > self.limit
        self.count += 1
        off = size - self.mean
        self.mean += off / self.count
        self._squares += off * (size - self.mean)
        return found

    def state_dict(self) -> State:
        """Count, mean and sum of squares."""
        return {"count": self.count, "mean": self.mean, "squares": self._squares}

    def load_state_dict(self, state: State) -> None:
        """Goes on where `state_dict` was taken."""
        self.count, self.mean, self._squares = int(state["count"]), float(state["mean"]), float(state["squares"])

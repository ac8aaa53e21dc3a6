"""The limiter: how many samples a learner may draw for each step that actors insert.

It is the only coupling of the two speeds, so that a learning curve does not depend on how fast the machine is. It never
blocks: it answers. With D = inserts * samples_per_insert - samples, counted from `start_steps` on, it keeps D within
`error_buffer` on both sides. The invariant is Reverb's (Cassirer et al. 2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from veldt.core import State
from veldt.errors import ConfigError


@dataclass(frozen=True)
class Limiter:
    """A limiter's settings.

    samples_per_insert: items sampled per step inserted; None does not limit (both sides run free, as in the Ape-X paper).
    start_steps: steps to insert before the first sample; more, if they do not yet make a batch.
    error_buffer: by how many samples the two sides may drift apart; None takes the least that cannot deadlock.
    """

    samples_per_insert: float | None
    start_steps: int = 1
    error_buffer: float | None = None

    def build(self, insert_steps: int, sample_items: int) -> RunningLimiter:
        """The running limiter of a table whose inserts come in `insert_steps` steps and samples in `sample_items`.

        Raises:
            ConfigError: a value out of range, or an `error_buffer` that would block both sides forever.
        """
        return RunningLimiter(self, insert_steps, sample_items)


class RunningLimiter:
    """The counters behind a `Limiter`; part of a checkpoint, or a resumed run would change its pace."""

    def __init__(self, settings: Limiter, insert_steps: int, sample_items: int) -> None:
        ratio = settings.samples_per_insert
        if ratio is not None and not ratio > 0:
            raise ConfigError(f"samples_per_insert must be > 0 (or none: unlimited), got {ratio}")
        if settings.start_steps < 1:
            raise ConfigError(f"start_steps must be >= 1, got {settings.start_steps}")
        self.samples_per_insert, self.start_steps = ratio, settings.start_steps
        self.insert_steps, self.sample_items = insert_steps, sample_items
        least = max(insert_steps * ratio, sample_items) if ratio is not None else 0.0
        self.error_buffer = least if settings.error_buffer is None else float(settings.error_buffer)
        if self.error_buffer < least:
            raise ConfigError(
                f"samples_per_insert {ratio:g} with error_buffer {self.error_buffer:g} could block both sides "
                f"forever; use error_buffer >= {least:g}"
            )
        self.inserted_steps = 0
        self.sampled_items = 0
        self._starts_at = self.start_steps
        self._sampled_before = 0

    @property
    def drift_samples(self) -> float:
        """How many samples the inserts so far allow for beyond those already drawn."""
        assert self.samples_per_insert is not None
        allowed = (self.inserted_steps - self._starts_at) * self.samples_per_insert
        return allowed - (self.sampled_items - self._sampled_before)

    @property
    def measured_samples_per_insert(self) -> float | None:
        """Samples drawn for each step inserted since sampling began; None before."""
        inserted = self.inserted_steps - self._starts_at
        return (self.sampled_items - self._sampled_before) / inserted if inserted > 0 else None

    def can_insert(self, times: int = 1, behind: int = 0) -> bool:
        """Whether `times` inserts of `insert_steps` more steps are welcome, the last from an actor ahead of `behind` others.

        It leaves room for one insert of each of those, so that no actor takes all the room for itself; if they do not come,
        it may still insert once nothing more can be sampled.
        """
        if self.samples_per_insert is None or self.inserted_steps < self._starts_at:
            return True
        each = self.insert_steps * self.samples_per_insert
        most = 2 * self.error_buffer - self.sample_items  # room that sampling alone can always make
        room = max(times * each, min((times + behind) * each, most))
        return self.drift_samples + room <= self.error_buffer

    def can_sample(self) -> bool:
        """Whether `sample_items` more samples are allowed."""
        if self.inserted_steps < self._starts_at:
            return False
        return self.samples_per_insert is None or self.drift_samples - self.sample_items >= -self.error_buffer

    def insert(self, steps: int, sampleable: bool = True) -> None:
        """Counts `steps` steps inserted. Until a batch is `sampleable` for the first time, inserts have nobody to wait for."""
        self.inserted_steps += steps
        if not sampleable and self.sampled_items == self._sampled_before:
            self._starts_at = max(self._starts_at, self.inserted_steps + 1)

    def sample(self, items: int) -> None:
        """Counts `items` items sampled."""
        self.sampled_items += items

    def waiting_for(self) -> str:
        """Why an insert or a sample is refused now, with the counters."""
        if self.inserted_steps < self._starts_at:
            return f"{self.inserted_steps:,} of {self._starts_at:,} steps before sampling"
        each, ratio = self.insert_steps * (self.samples_per_insert or 0), self.samples_per_insert or 0
        if not self.can_insert():
            side = f"{ceil(self.drift_samples + each - self.error_buffer):,} more samples"
        elif not self.can_sample():
            side = f"{ceil((self.sample_items - self.error_buffer - self.drift_samples) / ratio):,} more inserts"
        else:
            side = "the inserts under way"
        return (
            f"waits for {side}: inserts {self.inserted_steps:,}, samples {self.sampled_items:,}, "
            f"{ratio:g} samples per insert, allowed error ±{self.error_buffer:g}"
        )

    def refill(self) -> None:
        """The experience is gone (a run resumed without its replay): sampling waits until `start_steps` new steps are in."""
        self._starts_at = self.inserted_steps + self.start_steps
        self._sampled_before = self.sampled_items

    def state_dict(self) -> State:
        """The counters."""
        return {
            "inserted_steps": self.inserted_steps,
            "sampled_items": self.sampled_items,
            "starts_at": self._starts_at,
            "sampled_before": self._sampled_before,
        }

    def load_state_dict(self, state: State) -> None:
        """The counters of `state_dict`."""
        self.inserted_steps = int(state["inserted_steps"])
        self.sampled_items = int(state["sampled_items"])
        self._starts_at = int(state["starts_at"])
        self._sampled_before = int(state["sampled_before"])

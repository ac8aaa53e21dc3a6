"""`check_env`: whether an environment keeps Gymnasium's contract and Veldt's time convention, as a report.

Refuses nothing: whatever is wrong becomes a finding that says what, the value seen, and what would be right.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from veldt.core import Environments
from veldt.data import EnvSpec, TimeStep, Tree, tree_items, tree_leaves, tree_map
from veldt.envs.contract import check_reset, check_step
from veldt.envs.create import creator
from veldt.envs.families import family_of
from veldt.envs.make import make_env_spec, random_actions
from veldt.envs.options import EnvOptions
from veldt.envs.spaces import BrokenContract, Observations, action_spec, native_actions, observation_spec
from veldt.errors import VeldtError

STREAMS = 2
LARGE_REWARD = 10.0
LONG_EPISODE_STEPS = 5_000


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: Literal["error", "warning", "ok"]
    what: str
    seen: str
    right: str = ""


@dataclass
class CheckReport:
    """What `check_env` found. steps: decisions taken while looking at rows; steps_per_second: of one process."""

    env: str
    findings: list[Finding] = field(default_factory=list)
    steps: int = 0
    steps_per_second: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether there was no error; warnings do not count."""
        return all(finding.level != "error" for finding in self.findings)

    def json(self) -> str:
        """The report as JSON."""
        return json.dumps({**asdict(self), "ok": self.ok}, indent=2)

    def __str__(self) -> str:
        marks = {"error": "✗", "warning": "!", "ok": "✓"}
        lines = [
            f"{marks[finding.level]} {finding.what}: {finding.seen}" + (f" → {finding.right}" if finding.right else "")
            for finding in self.findings
        ]
        return "\n".join([f"{self.env}: {self.steps} steps, {self.steps_per_second:.0f} steps/s", *lines])

    def add(self, level: Literal["error", "warning", "ok"], what: str, seen: object, right: str = "") -> None:
        """Adds a finding."""
        self.findings.append(Finding(level, what, str(seen), right))


def check_env(env: EnvSpec | str | Callable[[], Any], steps: int = 1000, *, options: EnvOptions | None = None) -> CheckReport:
    """Takes `steps` random steps in `env` (an `EnvSpec`, or what `make_env_spec` takes) and reports what it saw."""
    name = env.id if isinstance(env, EnvSpec) else str(getattr(env, "__name__", env))
    report = CheckReport(name)
    try:
        if isinstance(env, EnvSpec):
            spec = env
        else:
            spec = make_env_spec(env, options=options)
            if not name.startswith("ALE/"):
                _check_bare(report, env, min(steps, 200))
        _check_rows(report, spec, steps)
    except (VeldtError, BrokenContract) as error:
        report.add("error", "the environment runs", error, "see the message")
    except Exception as error:  # the environment's own
        report.add("error", "the environment runs", f"{type(error).__name__}: {error}", "it must not raise")
    return report


def _check_bare(report: CheckReport, env: str | Callable[[], Any], steps: int) -> None:
    """What only the environment itself shows, before anything is converted: spaces and dtypes."""
    made = creator(env)[1]()
    family = family_of(made)
    try:
        observations = Observations(made.observation_space, observation_spec(made.observation_space, family.ignored), 1)
        native, random = native_actions(made.action_space), np.random.default_rng(0)
        spec = action_spec(made.action_space)
        outside: set[str] = set()
        dtypes: set[str] = set()
        answer: Any = made.reset(seed=0)
        check_reset(answer, observations)
        for _ in range(steps):
            answer = made.step(native(random_actions(spec, 1, random))[0])
            check_step(answer, observations)
            outside.add(observations.outside(answer[0]) or "")
            dtypes.add(observations.cast(answer[0]) or "")
            if answer[2] or answer[3]:
                answer = made.reset()
                check_reset(answer, observations)
    finally:
        made.close()
    report.add("ok", "reset and step return what Gymnasium expects", f"{steps} steps")
    for found, what, right in (
        (outside - {""}, "observations lie in their space", "widen the bounds, or clip in your env"),
        (dtypes - {""}, "observations have their space's dtype", "cast in your env"),
    ):
        report.add("warning", what, sorted(found)[0], right) if found else report.add("ok", what, "all did")


def _check_rows(report: CheckReport, spec: EnvSpec, steps: int) -> None:
    """Steps two copies with the same seeds and actions, and looks at the rows they answer."""
    one, two = (spec.make(STREAMS, np.random.SeedSequence(0)) for _ in range(2))
    try:
        watch = _Watch(spec, one.reset())
        same = _same(watch.row, two.reset())
        different_at = None if same else 0
        random, seconds = np.random.default_rng(1), 0.0
        for step in range(1, max(1, steps // STREAMS) + 1):
            action = random_actions(spec.action, STREAMS, random)
            began = time.perf_counter()
            row = one.step(action)
            seconds += time.perf_counter() - began
            watch.look(row)
            if different_at is None and not _same(row, two.step(action)):
                different_at = step
        report.steps = step * STREAMS
        report.steps_per_second = report.steps / seconds
        watch.report(report)
        _report_determinism(report, different_at)
        _report_episodes(report, one)
    finally:
        one.close()
        two.close()


class _Watch:
    """Looks at one row after the other, and remembers what broke the convention."""

    def __init__(self, spec: EnvSpec, row: TimeStep):
        self._spec = spec
        self._broken: dict[str, str] = {}
        self._rewards: list[float] = []
        self._step = 0
        self._expect("the rows after a reset are `first` and not `last`", bool(row.first.all() and not row.last.any()))
        self._storable(row)
        self.row = self._copy(row)

    def look(self, row: TimeStep) -> None:
        """Compares `row` with the one before."""
        self._step += 1
        before, new = self.row, row.first
        self._expect("a row after `last` is `first`", not (before.last & ~new).any())
        self._expect("a row is `first` only after `last` (the environment did not fail)", not (new & ~before.last).any())
        self._expect(
            "a `first` row came with reward 0 and discount 1",
            not (row.reward[new].any() or (row.discount[new] != 1).any()),
        )
        self._expect("a discount is 0 or 1", bool(np.isin(row.discount, (0, 1)).all()))
        self._expect("a reward is finite", bool(np.isfinite(row.reward).all()))
        self._storable(row)
        self._rewards += row.reward[~new].tolist()
        self.row = self._copy(row)

    def report(self, report: CheckReport) -> None:
        """Adds what was found."""
        for what, seen in self._broken.items():
            report.add("error", what, seen, "keep the convention of veldt.data")
        if not self._broken:
            report.add("ok", "rows keep the time convention (first, last, discount)", f"{self._step} rows")
        low, high = min(self._rewards, default=0.0), max(self._rewards, default=0.0)
        seen = f"between {low:g} and {high:g}, mean {np.mean(self._rewards or [0.0]):g}"
        if low == high == 0:
            report.add("warning", "random actions find rewards", "all were 0", "exploration may never find one")
        elif max(-low, high) > LARGE_REWARD:
            report.add("warning", "rewards are of order 1", seen, "clip or rescale rewards in the objective")
        else:
            report.add("ok", "rewards are of order 1", seen)

    def _storable(self, row: TimeStep) -> None:
        pairs = zip(tree_items(self._spec.observation, "obs"), tree_leaves(row.obs), strict=True)
        for (path, leaf), array in pairs:
            fits = array.dtype == leaf.dtype and array.shape[1:] == leaf.shape
            self._expect(f"{path} is {leaf.dtype} {leaf.shape}", fits, f"{array.dtype} {array.shape[1:]}")
            if fits and array.dtype.kind == "f":
                self._expect(f"{path} is finite", bool(np.isfinite(array).all()))

    def _expect(self, what: str, holds: bool, seen: str = "not so") -> None:
        if not holds:
            self._broken.setdefault(what, f"{seen} at row {self._step}")

    @staticmethod
    def _copy(row: TimeStep) -> TimeStep:
        return TimeStep(*(tree_map(np.copy, part) for part in row))


def _same(one: TimeStep, two: TimeStep) -> bool:
    pairs = zip(_arrays(one), _arrays(two), strict=True)
    return all(np.array_equal(left, right) for left, right in pairs)


def _arrays(row: TimeStep) -> list[Tree]:
    return [leaf for part in row for leaf in tree_leaves(part)]


def _report_determinism(report: CheckReport, different_at: int | None) -> None:
    if different_at is None:
        report.add("ok", "the same seeds and actions give the same rows", f"{report.steps} steps")
    else:
        right = "draw all randomness from the generator that reset(seed=...) seeds, or runs cannot be repeated or resumed"
        report.add("warning", "the same seeds and actions give the same rows", f"not at row {different_at}", right)


def _report_episodes(report: CheckReport, environments: Environments) -> None:
    lengths = [episode.length_steps for episode in environments.pop_episodes()]
    if not lengths:
        per_stream = report.steps // STREAMS
        level: Literal["warning", "ok"] = "warning" if per_stream >= LONG_EPISODE_STEPS else "ok"
        report.add(level, "episodes end", f"none within {per_stream} steps", "set a time limit, e.g. max_episode_steps")
    elif min(lengths) < 2:
        report.add("warning", "episodes last longer than a step", f"shortest {min(lengths)} steps", "check `terminated`")
    else:
        report.add("ok", "episodes end", f"{len(lengths)} episodes of {min(lengths)} to {max(lengths)} steps")

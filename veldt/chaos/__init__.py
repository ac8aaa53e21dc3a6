"""Chaos: a live run whose parts are killed, frozen and starved on a schedule, and a table of how it took it. An entry point.

    perpetrator  ---- signals --->  main process of the run  --- starts --->  actors, evaluator
         ^                                  |                                  ^
         +---- sights, lines (pipe) --------+            signals -------------+

`schedule` says what is done, `watched` is the run, `perpetrator` does it and watches, `traces` is what /proc tells, `outcome`
is the table.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from veldt.chaos.outcome import ChaosReport
from veldt.chaos.perpetrator import FREEZE_SECONDS, Perpetrator
from veldt.chaos.watched import Order
from veldt.errors import ConfigError
from veldt.request import make_request

DEFAULTS: dict[str, Any] = {"checkpoint_minutes": 0.05, "stuck_seconds": 5.0}
"""So that a run of a minute has checkpoints to resume from, and sees who is stuck."""


def chaos(
    system: str,
    env: str,
    *,
    preset: str = "auto",
    events: int = 7,
    score: float | None = None,
    say: Callable[[str], None] = print,
    **values: Any,
) -> ChaosReport:
    """Trains `system` on `env` in processes of their own, and does `events` things to them.

    Args:
        system, env, preset, **values: as `veldt.train`; `env` as a text, since it must reach another process.
        events: how many faults; the first seven are each of another kind.
        score: mean return that an evaluation after the last fault should reach.
        say: takes each line that is printed.

    Raises:
        UserError: the run is refused, or has no parts that could be killed; nothing was started.
    """
    if sys.platform != "linux":
        raise ConfigError(f"veldt chaos reads /proc and needs Linux; this is {sys.platform}")
    values = {**DEFAULTS, **values}
    request = make_request(system, env, preset, values)
    if request.runtime == "inline":
        raise ConfigError(f"{system} runs inline here, in one process: it has no parts to kill; use --runtime processes")
    if request.runtime == "ray":
        raise ConfigError("veldt chaos does things to processes of this machine: use --runtime processes")
    if request.run.stuck_seconds <= FREEZE_SECONDS:
        raise ConfigError(
            f"stuck_seconds must be above the {FREEZE_SECONDS:g} s for which a worker is frozen, got {request.run.stuck_seconds:g}"
        )
    if request.run.keep_checkpoints < 2:
        raise ConfigError("keep_checkpoints must be >= 2: one of them is damaged, got 1")
    return Perpetrator(request, Order(system, env, preset, values, None), events, score, say).run()

"""Training: from a request to a finished run folder, here or in an actor of a cluster. An entry point."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from veldt.errors import RunFolderError
from veldt.request import FIXED, Env, Request, from_dict, make_request, versions
from veldt.runs.changes import refuse_changes
from veldt.runs.checkpoint import Checkpoints, newest_whole
from veldt.runs.copies import Copies, is_remote
from veldt.runs.display import make_display, warnings_shown
from veldt.runs.folder import RunFolder
from veldt.runs.stopping import signals_caught
from veldt.runtime.cluster import Actors
from veldt.runtime.cluster_life import Life, Watch
from veldt.runtime.placement import Placement
from veldt.stretch import HERE, Front, OnRound, Result, Stretch, cluster_options, title_of, with_evaluator


def train(system: str, env: Env, *, preset: str = "auto", on_round: OnRound | None = None, **values: Any) -> Result:
    """Trains `system` on `env` and leaves a run folder.

    Args:
        system: `dqn`, `gorila`, `a3c`, `impala`, `apex`, `apex-dpg`, `r2d2`.
        env: a Gymnasium id, `package.module:callable`, or a callable that makes an environment.
        preset: named settings to start from; `auto` looks at the environment.
        on_round: watches the run; on a cluster it is sent to where the learner is.
        **values: any field of the system's config, of `RunOptions` or of `EnvOptions`.

    Raises:
        UserError: the request is wrong; nothing was started.
        RunError: the run could not go on.
    """
    request = make_request(system, env, preset, values)
    copies = _copies(request)
    if copies is not None:
        copies.claim(request.as_dict(), request.run.overwrite)
    if request.runtime == "ray":
        return _away(request, None, on_round)
    return _begin(request, on_round, HERE)


def resume(path: str | Path, *, on_round: OnRound | None = None, **changes: Any) -> Result:
    """Goes on with the run in folder `path` from its last checkpoint; `changes` may be run options, such as `steps`.

    `path` may be the `checkpoints` of a run whose folder is not here: it is made anew, at `out` or where it was. `on_round`
    watches the run, as in `train`.

    Raises:
        RunFolderError: there is no run, no usable checkpoint, or `changes` do not fit what was saved.
    """
    if is_remote(path):
        there = Copies(str(path), 1)
        here = Path(changes.pop("out", None) or there.config()["run"]["out"] or Path("runs") / there.url.rpartition("/")[2])
        there.make_folder(here)
        path, changes["checkpoints"] = here, there.url
    request = from_dict(RunFolder.open(Path(path)).config(), {**changes, "out": Path(path)})
    if request.runtime == "ray":
        return _away(request, changes, on_round)
    return _go_on(Path(path), changes, on_round, HERE)


def _begin(request: Request, on_round: OnRound | None, front: Front) -> Result:
    """A new run, to its end."""
    stretch = Stretch(request, on_round, front)  # whatever the parts refuse is refused before there is a folder
    try:
        folder = RunFolder.create(
            request.folder, request.as_dict(), request.differs(), versions(), overwrite=request.run.overwrite
        )
    except BaseException:
        stretch.close()
        raise
    return stretch.run(folder, _copies(request))


def _go_on(path: Path, changes: Mapping[str, Any], on_round: OnRound | None, front: Front) -> Result:
    """The run in folder `path`, from its last checkpoint to its end."""
    folder = RunFolder.resume(path)
    try:
        saved = folder.config()
        request = from_dict(saved, {**changes, "out": path})
        refuse_changes(saved, request.as_dict(), FIXED)
        checkpoints, copies = Checkpoints(folder.checkpoints_path, request.run.keep_checkpoints), _copies(request)
        passed_over = copies.fetch(folder.checkpoints_path) if copies is not None else []
        loaded = checkpoints.load_latest()
        finished = int(loaded.parts["monitor"]["finished_steps"])
        if request.run.steps <= finished or request.run.steps < loaded.step:
            raise RunFolderError(f"{path} is finished at step {loaded.step:,}; give --steps above {finished:,} to go on")
        stretch = Stretch(request, on_round, front)
    except BaseException:
        folder.close()
        raise
    for warning in [*passed_over, *loaded.warnings]:
        warnings.warn(warning, stacklevel=3)
    return stretch.run(folder, copies, loaded)


def _away(request: Request, changes: Mapping[str, Any] | None, on_round: OnRound | None) -> Result:
    """A run whose home is an actor of the cluster. This process watches it, and has it resumed when it dies.

    changes: of a run that is resumed from the start; None: it is new.

    Raises:
        ConfigError: Ray is missing, there is no cluster, or it has other versions.
        ResourceError: learner and workers do not fit.
    """
    path, copies = request.folder.absolute(), request.run.checkpoints  # an actor works in a folder of its own
    if copies is not None and not is_remote(copies):
        copies = str(Path(copies).absolute())
    request = replace(request, run=replace(request.run, out=path, checkpoints=copies))
    changes = None if changes is None else {**changes, "checkpoints": copies}
    first = partial(_begin, request, on_round) if changes is None else partial(_go_on, path, changes, on_round)
    program = with_evaluator(request.system.program(request.config, request.env_spec), request)
    cluster = Actors(cluster_options(request)).join(Placement.of(program))
    again = partial(_again, request, changes or {}, on_round)
    display = make_display(title_of(request), request.run.quiet)
    watch = Watch(cluster, display.say, display.update, request.run.stuck_seconds)
    try:
        with signals_caught(lambda: _killed(watch)) as caught:
            result: Result = watch.run(lambda number: partial(_live, again if number else first), caught)
        if watch.where is not None and not path.exists():
            display.say(f"the run folder {path} is on node {watch.where.address}, where the learner was")
        return result
    finally:
        display.close()
        cluster.close()


def _live(what: Callable[[Front], Result], life: Life) -> Result:
    """What an actor does."""
    with warnings_shown(life):
        return what(Front(lambda title, quiet: life, life.stops))


def _again(request: Request, changes: Mapping[str, Any], on_round: OnRound | None, front: Front) -> Result:
    """The run of `request` once more, from the newest checkpoint that can be had here; from its start if it never came to one.

    Raises:
        RunFolderError: neither the folder nor copies of its checkpoints are on this machine.
    """
    path, copies = request.folder, _copies(request)
    kept = copies is not None and copies.newest() is not None
    if not path.exists() and not kept:
        raise RunFolderError(
            f"{path} is not on this machine, and there are no copies of its checkpoints: to go on when a machine is lost, "
            f"a run needs --checkpoints, or an --out that all machines see"
        )
    if not path.exists() and copies is not None:
        copies.make_folder(path)
    if kept or newest_whole(path / "checkpoints") is not None:
        return _go_on(path, changes, on_round, front)
    return _begin(replace(request, run=replace(request.run, overwrite=True)), on_round, front)


def _killed(watch: Watch) -> str:
    """What a second signal does; what to say about it."""
    watch.kill()
    return "killed the learner and its actors"


def _copies(request: Request) -> Copies | None:
    return Copies(request.run.checkpoints, request.run.keep_checkpoints) if request.run.checkpoints is not None else None

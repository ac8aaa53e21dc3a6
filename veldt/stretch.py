"""One stretch of a run: from its start or its last checkpoint until it ends or is stopped. It brings systems, runtime and run folder together."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from veldt.core import Parameters, RunMemory, State
from veldt.data import tree_leaves
from veldt.errors import ConfigError, VeldtError, WorkersLost
from veldt.parts.evaluator import Evaluation, Evaluator
from veldt.program import Bundle, Node, Program
from veldt.request import Request, check_device, versions
from veldt.runs.checkpoint import Checkpoints, Loaded, SaveReport
from veldt.runs.copies import Copies
from veldt.runs.display import Display, make_display, warnings_shown
from veldt.runs.files import Skipped
from veldt.runs.folder import RunFolder
from veldt.runs.metrics import MetricsTable
from veldt.runs.monitor import Monitor
from veldt.runs.options import parse_resources
from veldt.runs.policy import save_policy
from veldt.runs.progress import Progress
from veldt.runs.report import draw_curve
from veldt.runs.stopping import signals_caught
from veldt.runtime.building import joined, replicas_of
from veldt.runtime.cluster import Actors
from veldt.runtime.cluster_start import ClusterOptions
from veldt.runtime.inline import InlineRuntime
from veldt.runtime.processes import ProcessRuntime

EVALUATION_ROWS = 64
"""Rows that an evaluation plays between two looks at the rest of the program."""

IMAGE_BYTES = 4096
"""Observations of at least so many bytes are worth several threads."""


@dataclass(frozen=True)
class Result:
    """How a run ended.

    stopped_by: `steps`, `return` (the evaluation reached `until_return`), `minutes`, or the name of a signal.
    final_mean, best_mean: mean return of the last and the best evaluation; train_mean: of the last 100 training episodes.
    """

    folder: Path
    stopped_by: str
    final_mean: float | None
    best_mean: float | None
    best_step: int
    train_mean: float | None
    progress: Progress
    checkpoint_step: int | None

    @property
    def exit_status(self) -> int:
        """0, or 128 + the number of the signal that stopped the run."""
        return 128 + signal.Signals[self.stopped_by] if self.stopped_by.startswith("SIG") else 0


OnRound = Callable[[int, InlineRuntime | ProcessRuntime], None]
"""Looks at a live run: called after each round of its loop with the agent steps so far and the runtime. It must not wait."""


class Front(NamedTuple):
    """Where a run meets its user.

    display: makes what shows the run, from its title and whether to be quiet. stops: from what a second signal does, the names of the
    signals that were caught, as they come.
    """

    display: Callable[[str, bool], Display]
    stops: Callable[[Callable[[], str]], AbstractContextManager[list[str]]]


HERE = Front(make_display, signals_caught)
"""This terminal, and the signals of this process."""


def with_evaluator(program: Program, request: Request) -> Program:
    """The program with an evaluator bundle beside it."""
    run = request.run
    make = partial(
        Evaluator,
        request.system.agent(request.config, request.env_spec),
        request.env_spec,
        period_steps=run.evaluation_period_steps,
        episodes=run.eval_episodes,
        epsilon=run.eval_epsilon,
        rows_per_step=EVALUATION_ROWS,
    )
    node = Node("evaluator", make, {"memory": program.memory, "parameters": program.parameters})
    return program.with_bundle(Bundle("evaluation", (node,)))


def make_runtime(program: Program, request: Request) -> InlineRuntime | ProcessRuntime:
    """The runtime that `request` asks for, with the program's parts built.

    Raises:
        ConfigError: something cannot be sent to another process.
    """
    run = request.run
    if request.runtime == "inline":
        return InlineRuntime(program, seed=run.seed, device=run.device)
    try:
        pickle.dumps(request.env_spec)
    except Exception as error:
        raise ConfigError(
            f"the environment factory cannot be sent to another process ({error}); "
            f"pass a module-level function or 'package.module:callable', or use --runtime inline"
        ) from error
    transport = None
    if request.runtime == "ray":
        transport = Actors(cluster_options(request))
    return ProcessRuntime(
        program, seed=run.seed, device=run.device, lockstep=run.lockstep, stuck_seconds=run.stuck_seconds, transport=transport
    )  # fmt: skip


class Stretch:
    """One stretch of a run."""

    def __init__(self, request: Request, on_round: OnRound | None, front: Front = HERE) -> None:
        self._front = front
        self._request, self._run_options, self._on_round = request, request.run, on_round
        check_device(request.run.device)  # on a cluster it is another machine's that this one has not seen before
        self._saved_step: int | None = None
        self._warned_replay = False
        torch.set_num_threads(_threads(request))
        program = with_evaluator(request.system.program(request.config, request.env_spec), request)
        self._runtime = make_runtime(program, request)
        parts = self._runtime.parts
        self._memories: list[RunMemory] = [parts[name] for name in replicas_of(program, program.memory)]
        self._parameters: Parameters = joined([parts[name] for name in replicas_of(program, program.parameters)])

    def close(self) -> None:
        """Lets go of what was built, if it is not to be run."""
        self._runtime.close()

    def run(self, folder: RunFolder, copies: Copies | None, loaded: Loaded | None = None) -> Result:
        """Runs to the end and writes into `folder` what a run leaves behind."""
        options, request = self._run_options, self._request
        self._folder, self._copies = folder, copies
        self._display = self._front.display(title_of(request), options.quiet)
        self._table = MetricsTable(folder.metrics_path, folder.tensorboard_path)
        self._checkpoints = Checkpoints(folder.checkpoints_path, options.keep_checkpoints)
        self._monitor = Monitor(
            self._runtime.parts,
            self._memories,
            self._parameters,
            options,
            self._table,
            self._display,
            frames_per_step=request.env_spec.frames_per_step,
            on_best=self._keep_policy,
            on_checkpoint=self._checkpoint,
        )
        try:
            with self._failure_noted(), warnings_shown(self._display):
                if loaded is not None:
                    self._table.truncate_after(loaded.step)
                    self._load(loaded)
                    self._display.say(f"resumed at step {self._monitor.steps:,}")
                folder.set_status("running", self._monitor.steps)
                return self._drive()
        finally:
            self._runtime.close()
            if copies is not None:
                copies.close()
            self._display.close()
            self._table.close()
            folder.close()

    def _drive(self) -> Result:
        monitor, runtime = self._monitor, self._runtime
        with self._front.stops(self._stop_at_once) as caught:
            try:
                runtime.run(self._after_round, self._display.say, lambda: bool(caught))
            except WorkersLost:
                self._checkpoint()
                self._say_copied(wait=True)
                raise
            if not caught:
                monitor.conclude(lambda: bool(caught))
            if caught:
                monitor.stop_reason = caught[0]
            self._checkpoint()
            self._say_copied(wait=True)
            runtime.close()
        finished = monitor.stop_reason in ("steps", "return")
        self._folder.set_status("finished" if finished else "interrupted", monitor.steps, best_return=monitor.best_mean)
        progress = monitor.progress()
        self._display.update(progress)
        if monitor.stop_reason and not monitor.stop_reason.startswith("SIG"):
            draw_curve(self._folder)
        return Result(
            self._folder.path,
            monitor.stop_reason or "steps",
            monitor.evaluation_mean,
            monitor.best_mean,
            monitor.best_step,
            monitor.return_mean,
            progress,
            self._saved_step,
        )

    def _after_round(self) -> bool:
        going_on = self._monitor.after_round()
        self._say_copied(wait=False)
        if self._on_round is not None:
            self._on_round(self._monitor.steps, self._runtime)
        return going_on

    def _stop_at_once(self) -> str:
        """What a second signal does; what to say about it."""
        killed = self._runtime.kill()
        saved = "no checkpoint" if self._saved_step is None else f"last checkpoint step {self._saved_step:,}"
        return f"killed {killed + 1} processes; {saved}"

    def _keep_policy(self, evaluation: Evaluation) -> None:
        about = {
            **self._request.as_dict(),
            "return_mean": evaluation.return_mean,
            "step": evaluation.step,
            "versions": versions(),
        }
        skipped = save_policy(self._folder.policy_path, evaluation.tensors, about)
        if skipped is not None:
            self._display.say(f"best policy not saved: {skipped.reason}")

    def _checkpoint(self) -> None:
        self._say_copied(wait=True)
        with self._runtime.snapshot() as state:
            saved = self._save(state)
        if self._copies is not None and saved is not None:
            self._copies.start(self._folder.path, saved)

    def _say_copied(self, wait: bool) -> None:
        """What became of the copy of the last checkpoint, once it is known."""
        if self._copies is not None:
            line = self._copies.finish() if wait else self._copies.said()
            if line is not None:
                self._display.say(line)

    def _save(self, state: State) -> Path | None:
        parts = self._runtime.parts
        weights = self._parameters.pull(())
        assert weights is not None
        states = {
            "weights": weights.tensors,
            "runtime": state,
            "monitor": self._monitor.state_dict(),
        }
        replay = None
        if self._run_options.checkpoint_replay:
            replay = {name: p.replay_state_dict() for name, p in parts.items() if hasattr(p, "replay_state_dict")}
        elif not self._warned_replay:
            self._warned_replay = True
            self._display.say("checkpoints leave the replay out: a resumed run has to fill it anew")
        self._table.sync()
        saved: SaveReport | Skipped = self._checkpoints.save(self._monitor.steps, states, replay)
        if isinstance(saved, Skipped):
            self._display.say(f"checkpoint skipped: {saved.reason}")
            return None
        self._saved_step = self._monitor.steps
        replay_part = f", replay {saved.replay_bytes / 1e6:,.1f} MB in {saved.replay_seconds:.1f} s"
        self._display.say(
            f"checkpoint at step {self._monitor.steps:,}: {saved.bytes / 1e6:,.1f} MB in {saved.seconds:.1f} s"
            + (replay_part if replay is not None else "")
        )
        return saved.path

    def _load(self, loaded: Loaded) -> None:
        states, replay = loaded.parts, loaded.replay
        parts = self._runtime.parts
        runtime_state = states["runtime"]
        if replay is None:  # the rows before the one under way are gone: no episode can go on in them
            for name in parts:
                if "env" in (runtime_state.get(name) or {}):
                    runtime_state[name]["env"] = None
            self._display.say("this checkpoint has no replay: it is filled anew before the next update")
        self._runtime.load_state_dict(runtime_state)
        for name, part in parts.items():
            if hasattr(part, "load_replay_state_dict"):
                if replay is None:
                    part.refill()
                else:
                    part.load_replay_state_dict(replay.pop(name))
        self._monitor.load_state_dict(states["monitor"])
        self._saved_step = loaded.step
        states.clear()  # the caller has it too: what was loaded would stay in memory for the whole run

    @contextmanager
    def _failure_noted(self) -> Iterator[None]:
        """A run that ends in an error says so in its status."""
        try:
            yield
        except BaseException as error:
            self._folder.set_status("failed", self._monitor.steps, error=f"{type(error).__name__}: {error}")
            if isinstance(error, VeldtError) and self._saved_step is not None:
                error.add_note(
                    f"last checkpoint at step {self._saved_step:,}; "
                    f"to go on from there: veldt train --resume {self._folder.path}"
                )
            raise


def _threads(request: Request) -> int:
    """Threads for torch in this process: as asked for; else all cores for images, one for small observations, where handing over costs more."""
    if request.run.threads is not None:
        return request.run.threads
    images = any(leaf.nbytes >= IMAGE_BYTES for leaf in tree_leaves(request.env_spec.seen))
    return (os.cpu_count() or 1) if images else 1


def title_of(request: Request) -> str:
    """What stands above a run."""
    return f"{request.system.name} on {request.env_name}, preset {request.preset}, seed {request.run.seed}: {request.folder}"


def cluster_options(request: Request) -> ClusterOptions:
    """What a run on a cluster takes of it."""
    run = request.run
    gpus = run.learner_gpus if run.learner_gpus is not None else float(run.device != "cpu")
    home = {"CPU": run.learner_cpus, "GPU": gpus}
    return ClusterOptions(
        run.actor_cpus,
        parse_resources(run.actor_resources),
        run.min_actors,
        {name: amount for name, amount in home.items() if amount},
    )

"""The command `veldt`: train, chaos, eval, demos, check-env, doctor.

A user's mistake is one line and exit status 2; a run that could not go on is its message and exit status 1; a run that a signal
stopped ends with 128 plus the signal's number.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from veldt.errors import ConfigError, VeldtError, did_you_mean

if TYPE_CHECKING:
    from veldt.systems import System

USAGE = """veldt: distributed deep reinforcement learning in PyTorch

  veldt train SYSTEM ENV [flags]     train, and leave a run folder      (veldt train --help)
  veldt train --resume RUN [flags]   go on with a run
  veldt chaos SYSTEM ENV [flags]     train while processes of the run are killed, frozen and starved
  veldt eval RUN [flags]             play episodes with a run's best policy
  veldt demos record ENV [flags]     record demonstrations; veldt demos show NAME describes them
  veldt check-env ENV [flags]        look at an environment closely
  veldt doctor [--json]              look at this machine

  for example: veldt train dqn CartPole-v1 --steps 50000 --seed 1 --out runs/cartpole"""


def main() -> None:
    """Runs the command of `sys.argv` and exits. `package.module:callable` is looked for in the current folder too."""
    sys.path.insert(0, os.getcwd())
    try:
        status = run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has seen enough, as in `veldt check-env ENV | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)


def run(arguments: Sequence[str]) -> int:
    """Runs one command; its exit status."""
    commands: dict[str, Callable[[Sequence[str]], int]] = {
        "train": _train,
        "chaos": _chaos,
        "eval": _evaluate,
        "demos": _demos,
        "check-env": _check_env,
        "doctor": _doctor,
    }
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    name = arguments[0]
    try:
        if name not in commands:
            raise ConfigError(f"unknown command {name!r}{did_you_mean(name, commands)}\n\n{USAGE}")
        return commands[name](arguments[1:])
    except VeldtError as error:
        notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
        print(f"veldt: {error}{notes}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:  # before there is a run to save, or when there is none
        print("veldt: interrupted", file=sys.stderr)
        return 130


def _train(arguments: Sequence[str]) -> int:
    from veldt import flags

    positional = list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments[:2]))
    rest = list(arguments[len(positional) :])
    system = _system(positional, rest)
    for flag in ("-h", "--help", "--help-all"):
        if flag in rest:
            flags.print_help(system, everything=flag == "--help-all")
    start, values = flags.parse(system, rest)
    if start.resume is not None:
        if positional:
            raise ConfigError(f"--resume goes on with the system and environment of {start.resume}; leave out "
                              f"{' '.join(positional)!r}")  # fmt: skip
        return _report(_resume(start, values))
    if len(positional) < 2:
        raise ConfigError("veldt train needs a system and an environment, as in: veldt train dqn CartPole-v1")
    from veldt.training import train

    values = {**_read_yaml(start.config), **values}
    return _report(train(system.name, positional[1], preset=start.preset, **values))


def _chaos(arguments: Sequence[str]) -> int:
    from veldt import flags
    from veldt.systems import SYSTEMS, find

    positional = list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments[:2]))
    rest = list(arguments[len(positional) :])
    system = find(positional[0]) if positional else SYSTEMS["apex"]
    for flag in ("-h", "--help", "--help-all"):
        if flag in rest:
            flags.print_help(system, everything=flag == "--help-all", command=flags.Chaos)
    asked, values = flags.parse(system, rest, flags.Chaos)
    if len(positional) < 2:
        raise ConfigError("veldt chaos needs a system and an environment, as in: veldt chaos apex CartPole-v1 --steps 30000")
    from veldt.chaos import chaos

    say = (lambda line: None) if asked.json else functools.partial(print, flush=True)
    report = chaos(system.name, positional[1], preset=asked.preset, events=asked.events, score=asked.score, say=say,
                   **{**_read_yaml(asked.config), **values})  # fmt: skip
    print(report.json() if asked.json else f"\n{report}")
    return report.exit_status


def _system(positional: Sequence[str], rest: Sequence[str]) -> System:
    """The system named, or that of the run to resume: its flags are the ones that are known."""
    from veldt.runs.copies import saved_config
    from veldt.systems import SYSTEMS, find

    if positional:
        return find(positional[0])
    for flag, following in itertools.pairwise((*rest, "")):
        if flag.partition("=")[0] == "--resume":
            return find(saved_config(flag.partition("=")[2] or following)["system"])
    return next(iter(SYSTEMS.values()))


def _resume(start: Any, values: dict[str, Any]) -> Any:
    from veldt.training import resume

    return resume(start.resume, **{**_read_yaml(start.config), **values})


def _read_yaml(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    import yaml

    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"config {path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"config {path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"config {path} must be a mapping of settings, got {type(values).__name__}")
    return {str(name).replace("-", "_"): value for name, value in values.items()}


def _report(result: Any) -> int:
    """Prints how a run ended and what to do next."""
    from veldt.runs.progress import bottleneck, duration

    progress, folder = result.progress, result.folder
    stopped = "" if result.stopped_by == "steps" else f" (stopped by {result.stopped_by})"
    rate = progress.steps / progress.seconds if progress.seconds else 0.0
    print(f"\n{progress.steps:,} steps, {progress.updates:,} updates, {progress.episodes:,} episodes in "
          f"{duration(progress.seconds)}: {rate:,.0f} steps/s{stopped}")  # fmt: skip
    if result.train_mean is not None:
        print(f"return, last 100 training episodes: {result.train_mean:.4g}")
    if result.best_mean is not None:
        print(f"return, evaluation: {result.final_mean:.4g} at the end, {result.best_mean:.4g} at best "
              f"(step {result.best_step:,}, kept as the policy)")  # fmt: skip
    print(f"bound by: {bottleneck(progress.learning)}")
    print(f"run folder: {folder}")
    if result.exit_status and result.checkpoint_step is not None:
        print(f"saved step {result.checkpoint_step:,}; resume with: veldt train --resume {folder}")
        return int(result.exit_status)
    print(f"next:  veldt eval {folder} --episodes 20\n"
          f"       veldt train --resume {folder} --steps {2 * progress.total_steps}\n"
          f"       tensorboard --logdir {folder}")  # fmt: skip
    return int(result.exit_status)


@dataclasses.dataclass(frozen=True)
class EvalFlags:
    """Plays fresh episodes with a run's best policy."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder, or a policy file."""

    episodes: int = 20
    """How many episodes."""

    seed: int = 0
    """Seeds the environments."""

    epsilon: float | None = None
    """Chance of a random action; by default what the run evaluated with."""

    video: Path | None = None
    """Also write a video of one episode to this .mp4 file."""

    json: bool = False
    """Print JSON."""


def _evaluate(arguments: Sequence[str]) -> int:
    from veldt.errors import require_at_least
    from veldt.policy import evaluate, load

    asked = tyro.cli(EvalFlags, args=list(arguments), prog="veldt eval")
    require_at_least("episodes", asked.episodes, 1)
    policy = load(asked.run)
    result = evaluate(policy, asked.episodes, seed=asked.seed, epsilon=asked.epsilon)
    if asked.video is not None:
        from veldt.video import record

        record(policy, asked.video, seed=asked.seed, epsilon=asked.epsilon)
    if asked.json:
        print(result.json())
        return 0
    print(f"{result.env}, policy of step {result.policy_step:,}: return {result.return_mean:.4g} over "
          f"{len(result.returns)} episodes (min {min(result.returns):.4g}, max {max(result.returns):.4g})")  # fmt: skip
    if asked.video is not None:
        print(f"video: {asked.video}")
    return 0


def _demos(arguments: Sequence[str]) -> int:
    from veldt.demonstrate import demos

    return demos(arguments)


@dataclasses.dataclass(frozen=True)
class CheckFlags:
    """Looks closely at an environment: spaces, dtypes, determinism, episode ends, speed."""

    env: Annotated[str, tyro.conf.Positional]
    """A Gymnasium id or package.module:callable."""

    steps: int = 1000
    """Steps to take."""

    json: bool = False
    """Print JSON."""


def _check_env(arguments: Sequence[str]) -> int:
    from veldt.envs.check import check_env

    asked = tyro.cli(CheckFlags, args=list(arguments), prog="veldt check-env")
    report = check_env(asked.env, steps=asked.steps)
    print(report.json() if asked.json else report)
    return 0 if report.ok else 1


@dataclasses.dataclass(frozen=True)
class DoctorFlags:
    """Looks at this machine: versions, cores, memory, GPU, games, extras."""

    json: bool = False
    """Print JSON."""


def _doctor(arguments: Sequence[str]) -> int:
    from veldt.doctor import examine

    asked = tyro.cli(DoctorFlags, args=list(arguments), prog="veldt doctor")
    report = examine()
    print(report.json() if asked.json else report)
    return 0


if __name__ == "__main__":
    main()

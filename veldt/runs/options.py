"""What a user may choose about a run, apart from the system, its hyperparameters and the environment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from veldt.errors import ConfigError, require_at_least, require_between


@dataclass(frozen=True)
class RunOptions:
    """How long a run lasts, where it goes, what is measured and kept."""

    steps: int = 50_000_000
    """Agent steps to train for, at most."""

    seed: int = 0
    """Root of all random numbers."""

    out: Path | None = None
    """The run's folder; by default runs/SYSTEM-ENV-SEED."""

    until_return: float | None = None
    """Stop when an evaluation's mean return reaches this."""

    minutes: float | None = None
    """Stop after so much wall time."""

    runtime: Literal["inline", "processes", "ray"] | None = None
    """Where the parts run: inline, all in this process; processes, actors and evaluator beside it; ray, those on the Ray cluster at
    RAY_ADDRESS, or on a Ray of this machine that lasts as long as the run. By default the system's own."""

    actor_cpus: float = 1.0
    """With ray: CPUs of the cluster that each actor, and the evaluator, takes."""

    actor_resources: str | None = None
    """With ray: custom resources that each of them takes, as in sim=1,license=0.5."""

    min_actors: int | None = None
    """With ray: so many actors must fit on the cluster for the run to begin, the others join as it grows; by default all."""

    learner_cpus: float = 1.0
    """With ray: CPUs of the cluster that the learner's process takes, which is home to replay and parameters too; of several, each."""

    learner_gpus: float | None = None
    """With ray: GPUs that each learner takes; by default 1 if --device is one, else none."""

    lockstep: bool = False
    """With processes or ray: actors and learner take turns as they do inline. Slower, and repeatable bit for bit."""

    stuck_seconds: float = 60.0
    """With processes or ray: one that makes no progress for so long, although it could, is killed and replaced."""

    device: str = "cpu"
    """Where the learner computes: cpu, cuda, cuda:1, ..."""

    threads: int | None = None
    """Threads for torch; by default one for each core."""

    eval_every_steps: int | None = None
    """Agent steps between evaluations; by default a twentieth of the run."""

    eval_episodes: int = 20
    """Episodes of one evaluation."""

    eval_epsilon: float = 0.0
    """Exploration while evaluating: the chance of a random action, the noise on continuous ones, or the chance of sampling a policy."""

    log_every_steps: int | None = None
    """Agent steps between two rows of the metrics table; by default 1/400 of the run, at least 500."""

    checkpoint_minutes: float = 10.0
    """Wall time between checkpoints; one is always written at the end."""

    checkpoints: str | None = None
    """A copy of each checkpoint is kept there too: any fsspec path, as in s3://bucket/pong. --resume takes it in place of the folder."""

    keep_checkpoints: int = 2
    """How many checkpoints are kept."""

    checkpoint_replay: bool = True
    """Save the replay with each checkpoint; without it a resumed run fills it anew."""

    overwrite: bool = False
    """Remove the run that the folder holds."""

    quiet: bool = False
    """Print the result only."""

    def __post_init__(self) -> None:
        for name in ("steps", "eval_episodes", "keep_checkpoints"):
            require_at_least(name, getattr(self, name), 1)
        for name in ("eval_every_steps", "log_every_steps", "threads"):
            if getattr(self, name) is not None:
                require_at_least(name, getattr(self, name), 1)
        if self.min_actors is not None:
            require_at_least("min_actors", self.min_actors, 1)
        require_at_least("actor_cpus", self.actor_cpus, 0)
        require_at_least("learner_cpus", self.learner_cpus, 0)
        require_at_least("learner_gpus", self.learner_gpus or 0, 0)
        parse_resources(self.actor_resources)
        if not self.stuck_seconds > 0:
            raise ConfigError(f"stuck_seconds must be > 0, got {self.stuck_seconds:g}")
        require_at_least("checkpoint_minutes", self.checkpoint_minutes, 0)
        if self.minutes is not None:
            require_at_least("minutes", self.minutes, 0)
        require_between("eval_epsilon", self.eval_epsilon, 0, 1)
        if self.seed < 0:
            raise ConfigError(f"seed must be an integer >= 0, got {self.seed}")

    @property
    def evaluation_period_steps(self) -> int:
        """Agent steps between evaluations."""
        return self.eval_every_steps or max(1, self.steps // 20)

    @property
    def log_period_steps(self) -> int:
        """Agent steps between rows of the metrics table."""
        return self.log_every_steps or max(500, self.steps // 400)


def parse_resources(text: str | None) -> dict[str, float]:
    """Custom resources by name, written as `name=amount,name=amount`.

    Raises:
        ConfigError: it is written otherwise, or an amount is not above 0.
    """
    found: dict[str, float] = {}
    for part in (text or "").split(",") if text else ():
        name, _, amount = (piece.strip() for piece in part.partition("="))
        try:
            found[name] = float(amount)
        except ValueError:
            found[name] = 0.0
        if not name or not found[name] > 0:
            raise ConfigError(f"actor_resources must be written as name=amount,name=amount with amounts > 0, got {text!r}")
    return found

"""R2D3 (Paine et al. 2019): R2D2 with demonstrations.

    environments <-> actor 0 ----steps and initial priorities---> replay ----+
    environments <-> actor 1 ----+    ^                                      +--> mixture --batches--> learner
         ...           ...       +    |                    demonstrations ---+       ^                    |
    environments <-> actor N ----+    |                                              +--- priorities -----+ gradients
                                      +---- weights, now and then ---- parameters <-----------------------+

The program is R2D2's with one link laid anew: each element of a batch is one of the demonstrations with a small probability. The loss
is the same for both, and there is no other use of the demonstrations: no pretraining, no imitation, no margin. Defaults are the paper's
but for those listed in docs/r2d3.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from veldt.agents.q import require_discrete
from veldt.agents.recurrent_q import RecurrentQAgent
from veldt.data import EnvSpec
from veldt.demos.table import Demonstrations
from veldt.errors import ConfigError
from veldt.program import Node, Program
from veldt.replay.mixture import Mixture
from veldt.replay.selectors import Proportional
from veldt.systems import r2d2
from veldt.systems.r2d2 import R2D2Config


@dataclass(frozen=True)
class R2D3Config(R2D2Config):
    """Hyperparameters of R2D3, by default those of Paine et al. 2019, and R2D2's where it is silent."""

    demos: str | None = None
    """The demonstrations: a Minari dataset; hf://... is downloaded. Without one R2D3 does not start."""
    demo_ratio: float = 1 / 256
    """The chance of each element of a batch to be a demonstration."""
    sequence_steps: int = 40
    """Steps of a sequence that are learned from: the last 40 of the paper's 80."""
    overlap_steps: int = 0
    """How many of them the next sequence of the episode has too."""
    initial_state: Literal["stored", "zero"] = "zero"
    """What the LSTM starts from: stored, the state that the actor had there (zeros in demonstrations); zero."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.demo_ratio < 1:
            raise ConfigError(f"demo_ratio must be in (0, 1), got {self.demo_ratio:g}; without demonstrations R2D3 is r2d2")


def agent(c: R2D3Config, env: EnvSpec) -> Callable[[], RecurrentQAgent]:
    """Builds the agent that R2D3 trains: R2D2's. Raises `ConfigError` unless actions are Discrete."""
    require_discrete("r2d3", env.action, "use apex-dpg")
    return r2d2.agent(c, env)


def program(c: R2D3Config, env: EnvSpec) -> Program:
    """The R2D3 of these settings on this environment."""
    agent(c, env)
    if c.demos is None:
        raise ConfigError(
            "r2d3 needs --demos, the name of a Minari dataset; record one with: veldt demos record ENV ... --out NAME"
        )
    demonstrations = Node("demonstrations", partial(
        Demonstrations, c.demos, env, r2d2.objective(c).extras, view=c.view, batch_size=c.batch_size,
        selector=Proportional(c.priority_exponent, c.importance_exponent),
    ))  # fmt: skip
    links = {"own": "replay", "demonstrations": "demonstrations"}
    mixture = Node("mixture", partial(Mixture, demo_ratio=c.demo_ratio), links)
    return r2d2.program(c, env).into("learning", demonstrations, mixture).relink("learner", memory="mixture")

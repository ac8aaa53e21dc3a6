"""R2D2 (Kapturowski et al. 2019): Ape-X with a memory.

The wiring is that of `veldt.systems.apex`. The agent has an LSTM; what is stored and learned from are overlapping sequences of an
episode with the recurrent state that the actor had before them, and a prefix that warms it up. Rewards are not clipped: values are
squashed instead. Defaults are the paper's but for those listed in docs/r2d2.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from veldt.agents.q import require_discrete
from veldt.agents.recurrent_q import RecurrentQAgent, RecurrentQNetworkConfig
from veldt.agents.recurrent_q_learning import RecurrentQLearning
from veldt.data import EnvSpec
from veldt.errors import ConfigError, require_at_least, require_between
from veldt.math.exploration import EpsilonLadder
from veldt.math.priorities import SequencePriorities
from veldt.parts.optimizers import AdamConfig
from veldt.program import Program
from veldt.replay.sequences import Sequences
from veldt.systems.apex import assemble
from veldt.systems.apex_shared import ApexShared


@dataclass(frozen=True)
class R2D2Config(ApexShared):
    """Hyperparameters of R2D2, by default those of Kapturowski et al. 2019 (table 2), and Ape-X's where it is silent."""

    hidden: tuple[int, ...] = (512,)
    """Widths of the hidden layers before the LSTM; an image encoder has them after its convolutions."""
    lstm_units: int = 512
    """Cells of the LSTM, which reads the last action and the last reward too."""
    head_units: int = 512
    """Width of the hidden layer of each dueling stream, behind the LSTM."""
    sequence_steps: int = 80
    """Steps of a sequence that are learned from."""
    overlap_steps: int = 40
    """How many of them the next sequence of the episode has too."""
    burn_in_steps: int = 40
    """Steps before a sequence that only warm the recurrent state up."""
    initial_state: Literal["stored", "zero"] = "stored"
    """What the LSTM starts from: stored, the state that the actor had there; zero."""
    delta_q: bool = True
    """Report how far recurrent states have drifted from the actors'; keeps one more state for each sequence."""
    rescaling_epsilon: float | None = 1e-3
    """Epsilon of the squashing h of values; none: values are not squashed."""
    priority_eta: float = 0.9
    """A sequence's priority is this much of its largest error, and for the rest of the mean one."""
    n_steps: int = 5
    """Rewards summed before bootstrapping."""
    discount: float = 0.997
    """Gamma."""
    reward_clip: float | None = None
    """Rewards are clipped to plus or minus this before they are learned from; none leaves them."""
    replay_steps: int = 4_000_000
    """Steps kept; the oldest make room for the newest."""
    priority_exponent: float = 0.9
    """Alpha of prioritized replay."""
    importance_exponent: float = 0.6
    """Beta of prioritized replay."""
    samples_per_insert: float | None = 0.77
    """Sequences learned from for each sequence_steps - overlap_steps steps acted; none lets actors and learner run free."""
    batch_size: int = 64
    """Sequences per update."""
    learning_rate: float = 1e-4
    """Step size of Adam."""
    optimizer_epsilon: float = 1e-3
    """Keeps Adam's denominator away from zero."""
    epsilon_base: float = 0.4
    """Exploration of the first environment of all."""
    epsilon_power: float = 7.0
    """The last environment explores at epsilon_base to the power of 1 plus this; the others in between."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_between("priority_eta", self.priority_eta, 0, 1)
        require_at_least("rescaling_epsilon", self.rescaling_epsilon or 0, 0)
        if self.n_steps >= self.sequence_steps:
            raise ConfigError(f"n_steps {self.n_steps} must be < sequence_steps {self.sequence_steps}")

    @property
    def view(self) -> Sequences:
        """What is learned from."""
        return Sequences(self.sequence_steps, self.overlap_steps, self.burn_in_steps, self.initial_state, marks=self.delta_q)

    @property
    def samples_per_step(self) -> float | None:
        """Sequences learned from for each step acted."""
        return None if self.samples_per_insert is None else self.samples_per_insert / self.view.period_steps

    @property
    def network(self) -> RecurrentQNetworkConfig:
        """The network of these settings."""
        return RecurrentQNetworkConfig(self.encoder, self.hidden, self.lstm_units, self.head_units)


def agent(c: R2D2Config, env: EnvSpec) -> Callable[[], RecurrentQAgent]:
    """Builds the agent that R2D2 trains. Raises `ConfigError` unless actions are Discrete."""
    require_discrete("r2d2", env.action, "use apex-dpg")
    return partial(RecurrentQAgent, env, c.network)


def objective(c: R2D2Config) -> RecurrentQLearning:
    """What R2D2 minimises."""
    return RecurrentQLearning(c.n_steps, c.discount, c.reward_clip, c.rescaling_epsilon, c.priority_eta)


def program(c: R2D2Config, env: EnvSpec) -> Program:
    """The R2D2 of these settings on this environment."""
    shared = c.n_steps, c.discount, c.reward_clip, c.rescaling_epsilon, c.priority_eta
    rate = SequencePriorities(c.sequence_steps, c.view.period_steps, *shared)
    optimizer = AdamConfig(c.learning_rate, beta1=0.9, beta2=0.999, epsilon=c.optimizer_epsilon)
    exploration = EpsilonLadder(c.epsilon_base, c.epsilon_power)
    return assemble(c, env, agent(c, env), objective(c), optimizer, exploration, (c.view, rate), c.network.state)

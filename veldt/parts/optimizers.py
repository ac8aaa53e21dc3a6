"""Optimisers as the papers mean them: RMSProp with its epsilon inside or outside the root, AdaGrad, and fused Adam.

`torch.optim.RMSprop` computes g / (sqrt(ms) + epsilon) from ms = 0; DQN, A3C and TF1 (IMPALA) compute
g / sqrt(ms + epsilon), and TF1 starts at ms = 1. Configs refuse settings out of range
(`ConfigError`); the learning rate may be changed before any step through `param_groups[i]["lr"]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.optim import Optimizer

from veldt.errors import ConfigError


class RMSProp(Optimizer):
    """Gradient over the root of its running mean square, vectorised over parameters.

        square <- decay square + (1 - decay) g^2
        mean   <- decay mean + (1 - decay) g                (centered only)
        spread  = square, or square - mean^2 if centered
        theta  <- theta - lr g / sqrt(spread + epsilon)     or g / (sqrt(spread) + epsilon)

    `square` starts at `initial_square`, `mean` at 0. A centered spread is kept itself, by the equal recursion
    spread <- decay (spread + (1 - decay) (g - mean)^2), in which rounding cannot make it negative.

    State, `spread` and `mean` per parameter, exists from the start, so that it can be shared between processes (A3C).
    Parameters without gradient are passed over.
    Source: Hinton's lecture 6e; Graves 2013, equations 38-45, without momentum (centered); Mnih et al. 2015, 2016.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float,
        decay: float,
        epsilon: float,
        epsilon_inside_root: bool,
        initial_square: float,
        centered: bool,
    ) -> None:
        settings = {
            "lr": lr,
            "decay": decay,
            "epsilon": epsilon,
            "epsilon_inside_root": epsilon_inside_root,
            "initial_square": initial_square,
            "centered": centered,
        }
        super().__init__(params, settings)
        self._scratch: dict[torch.Tensor, torch.Tensor] = {}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters and makes their state."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for parameter in group["params"]:
            state = self.state[parameter]
            state["spread"] = torch.full_like(parameter, group["initial_square"], requires_grad=False)
            if group["centered"]:
                state["mean"] = torch.zeros_like(parameter, requires_grad=False)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient; `closure`, if given, computes them first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            learned = [(parameter, parameter.grad) for parameter in group["params"] if parameter.grad is not None]
            if learned:
                self._update(group, [parameter for parameter, _ in learned], [gradient for _, gradient in learned])
        return loss

    def _update(self, group: dict[str, Any], parameters: list[torch.Tensor], gradients: list[torch.Tensor]) -> None:
        spreads = [self.state[parameter]["spread"] for parameter in parameters]
        scratch = [self._scratch_of(parameter) for parameter in parameters]
        decay, epsilon = group["decay"], group["epsilon"]
        deviations, gain = gradients, 1 - decay
        if group["centered"]:
            means = [self.state[parameter]["mean"] for parameter in parameters]
            torch._foreach_copy_(scratch, gradients)
            torch._foreach_sub_(scratch, means)
            deviations, gain = scratch, decay * (1 - decay)
            torch._foreach_add_(means, deviations, alpha=1 - decay)
        torch._foreach_mul_(spreads, decay)
        torch._foreach_addcmul_(spreads, deviations, deviations, gain)
        torch._foreach_copy_(scratch, spreads)
        if group["epsilon_inside_root"]:
            torch._foreach_add_(scratch, epsilon)
            torch._foreach_sqrt_(scratch)
        else:
            torch._foreach_sqrt_(scratch)
            torch._foreach_add_(scratch, epsilon)
        torch._foreach_addcdiv_(parameters, gradients, scratch, -group["lr"])

    def _scratch_of(self, parameter: torch.Tensor) -> torch.Tensor:
        """Memory like `parameter`, kept from step to step: new memory would cost more than the arithmetic."""
        if parameter not in self._scratch:
            self._scratch[parameter] = torch.empty_like(parameter, requires_grad=False)
        return self._scratch[parameter]


def _check(learning_rate: float, epsilon: float, **decays: float) -> None:
    if not learning_rate >= 0:
        raise ConfigError(f"learning_rate must be >= 0, got {learning_rate}")
    if not epsilon > 0:
        raise ConfigError(f"optimizer epsilon must be > 0, got {epsilon}")
    for name, decay in decays.items():
        if not 0 <= decay < 1:
            raise ConfigError(f"optimizer {name} must lie in [0, 1), got {decay}")


@dataclass(frozen=True)
class RMSPropConfig:
    """Settings of `RMSProp`, under the names used there."""

    learning_rate: float
    decay: float
    epsilon: float
    epsilon_inside_root: bool
    initial_square: float
    centered: bool

    def __post_init__(self) -> None:
        _check(self.learning_rate, self.epsilon, decay=self.decay)
        if not self.initial_square >= 0:
            raise ConfigError(f"optimizer initial_square must be >= 0, got {self.initial_square}")

    def build(self, parameters: Iterable[torch.Tensor]) -> Optimizer:
        """The optimiser of these parameters."""
        return RMSProp(
            parameters,
            lr=self.learning_rate,
            decay=self.decay,
            epsilon=self.epsilon,
            epsilon_inside_root=self.epsilon_inside_root,
            initial_square=self.initial_square,
            centered=self.centered,
        )


@dataclass(frozen=True)
class AdamConfig:
    """Settings of Adam (Kingma and Ba 2015), in torch's fused kernel; epsilon outside the root, as in the paper."""

    learning_rate: float
    beta1: float
    beta2: float
    epsilon: float

    def __post_init__(self) -> None:
        _check(self.learning_rate, self.epsilon, beta1=self.beta1, beta2=self.beta2)

    def build(self, parameters: Iterable[torch.Tensor]) -> Optimizer:
        """The optimiser of these parameters."""
        return torch.optim.Adam(parameters, lr=self.learning_rate, betas=(self.beta1, self.beta2), eps=self.epsilon, fused=True)


@dataclass(frozen=True)
class AdaGradConfig:
    """Settings of AdaGrad, in torch's fused kernel: the gradient over the root of the sum of all squares so far.

        sum   <- sum + g^2
        theta <- theta - lr g / (sqrt(sum) + epsilon)

    The sum starts at 0 and exists before the first step. Source: Duchi et al. 2011; Dean et al. 2012, section 4.1.
    """

    learning_rate: float
    epsilon: float

    def __post_init__(self) -> None:
        _check(self.learning_rate, self.epsilon)

    def build(self, parameters: Iterable[torch.Tensor]) -> Optimizer:
        """The optimiser of these parameters."""
        return torch.optim.Adagrad(parameters, lr=self.learning_rate, eps=self.epsilon, fused=True)


def adam_or_rmsprop(name: Literal["adam", "rmsprop"], learning_rate: float, epsilon: float) -> AdamConfig | RMSPropConfig:
    """Adam with its authors' decays, or the centered RMSProp of DQN and its descendants: decay 0.95, epsilon inside the root."""
    if name == "adam":
        return AdamConfig(learning_rate, beta1=0.9, beta2=0.999, epsilon=epsilon)
    return RMSPropConfig(learning_rate, 0.95, epsilon, epsilon_inside_root=True, initial_square=0.0, centered=True)

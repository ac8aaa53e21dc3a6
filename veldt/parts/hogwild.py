"""Hogwild: weights in memory that all workers share, which each changes without a lock (Recht et al. 2011; Mnih et al. 2016, section 4).

`HogwildParameters` are the shared weights and the optimiser's shared state. `OwnCopy` is what one worker acts and differentiates
with: theta' of the paper. Two workers may write at once, and a reader may see half of an update; both are meant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from veldt.core import Arena, Parameters, Place, State
from veldt.data import Versions, Weights
from veldt.errors import require_at_least
from veldt.math.exploration import LinearSchedule
from veldt.parts.layout import Layout, gather, optimizer_tensors
from veldt.parts.parameters import scale_down


class HogwildParameters:
    """An agent's weights as one vector, with their optimiser, in memory that processes share (`core.Parameters`, `core.Shareable`).

    Each user counts its own updates, so that none is lost to a race; the version is their sum.
    """

    def __init__(
        self,
        make_agent: Callable[[], nn.Module],
        optimizer: Any,
        *,
        users: int,
        max_gradient_norm: float | None,
        learning_rate: LinearSchedule | None,
        place: Place,
    ) -> None:
        """Args:
        make_agent: builds the agent whose initial weights the run starts from.
        optimizer: has `build(parameters) -> torch.optim.Optimizer`; its state is shared too.
        users: who may push.
        max_gradient_norm: gradients are scaled down to this global norm; None leaves them.
        learning_rate: the optimiser's step size by version; None keeps the one it was built with.
        place: seeds the initial weights, and gives the memory.
        """
        require_at_least("users", users, 1)
        torch.manual_seed(int(place.seeds("parameters").generate_state(1)[0]))
        agent = make_agent()
        self._layout, self._users, self._user = Layout.of(agent), users, 0
        self._make_optimizer = optimizer
        self._max_gradient_norm, self._learning_rate = max_gradient_norm, learning_rate
        self._arena: Arena = place.arena()
        self._open(torch.cat([parameter.detach().reshape(-1) for parameter in agent.parameters()]))

    def _open(self, initial: torch.Tensor | None) -> None:
        """Takes the memory, and fills it if this is where it is made."""
        layout, optimizer = self._layout, self._make_optimizer
        self._vector = self._room(layout.size, layout.dtype)
        if initial is not None:
            self._vector.copy_(initial)
        self.optimizer: torch.optim.Optimizer = optimizer.build([self._vector])
        self._tensors = {**layout.views(self._vector), **layout.buffers}
        kept = self.optimizer.state[self._vector]
        for name, fresh in optimizer_tensors(self.optimizer, self._vector).items():
            if fresh.numel() == layout.size:
                kept[name] = self._room(layout.size, fresh.dtype)
                if initial is not None:
                    kept[name].copy_(fresh)
        self._counts = self._arena.allocate(8 * self._users).view(np.int64)
        if initial is not None:
            self._counts[:] = 0
        self._gradient = torch.zeros(layout.size, dtype=layout.dtype)
        self._gradients = list(layout.views(self._gradient).values())

    def _room(self, size: int, dtype: torch.dtype) -> torch.Tensor:
        nbytes = size * torch.empty(0, dtype=dtype).element_size()
        return torch.from_numpy(self._arena.allocate(nbytes)).view(dtype)

    @property
    def version(self) -> int:
        """Updates by all users."""
        return int(self._counts.sum())

    def of(self, user: int) -> HogwildParameters:
        """The same weights for user number `user`."""
        mine = object.__new__(HogwildParameters)  # `copy` would take memory anew, as a new process does
        mine.__dict__.update(self.__dict__)
        mine._user = user
        return mine

    def pull(self, held: Versions) -> Weights | None:
        """The shared tensors themselves: they change at any time."""
        version = self.version
        return Weights((version,), self._tensors) if held != (version,) else None

    def can_push(self) -> bool:
        """Always: nobody waits for anybody."""
        return True

    def push(self, gradients: Sequence[torch.Tensor | None], based_on: Versions) -> bool:
        """Applies `gradients` to the shared weights, whatever happened to them since; False if they are not all finite."""
        gather(gradients, self._gradients)
        if not scale_down([self._gradient], self._max_gradient_norm):
            return False
        if self._learning_rate is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = self._learning_rate(self.version)
        self._vector.grad = self._gradient
        self.optimizer.step()
        self._vector.grad = None
        self._counts[self._user] += 1
        return True

    def state_dict(self) -> State:
        """Version, weights and what the optimiser keeps."""
        kept = {name: tensor.clone() for name, tensor in optimizer_tensors(self.optimizer, self._vector).items()}
        return {"version": self.version, "vector": self._vector.clone(), "optimizer": kept}

    def load_state_dict(self, state: State) -> None:
        """Goes on where `state_dict` was taken."""
        self._counts[:] = 0
        self._counts[0] = int(state["version"])
        self._vector.copy_(state["vector"])
        for name, tensor in optimizer_tensors(self.optimizer, self._vector).items():
            tensor.copy_(state["optimizer"][name])

    def __getstate__(self) -> dict[str, Any]:
        taken = "_layout", "_users", "_user", "_make_optimizer", "_max_gradient_norm", "_learning_rate", "_arena"
        return {name: getattr(self, name) for name in taken}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open(None)


class OwnCopy:
    """One worker's copy of the weights (`core.Parameters`): renewed when the worker has pushed, and at no other time.

    So its actor acts, and its learner differentiates, with the same weights (Mnih et al. 2016, algorithm S3: theta' <- theta
    at the start of each segment). The weights behind it may be anybody's: Hogwild's, a server's.
    """

    def __init__(self, *, parameters: Parameters, place: Place) -> None:
        """Args:
        parameters: the weights that all workers change.
        place: nothing is asked of it.
        """
        self._parameters = parameters
        self._versions: Versions = ()
        self._tensors: dict[str, torch.Tensor] = {}
        self._renew()

    @torch.no_grad()
    def _renew(self) -> None:
        weights = self._parameters.pull(self._versions)
        if weights is None:
            return
        self._versions = weights.versions
        for name, tensor in weights.tensors.items():
            self._tensors[name] = self._tensors[name].copy_(tensor) if name in self._tensors else tensor.clone()

    @property
    def version(self) -> int:
        """The newest version there is; the copy may be older."""
        return self._parameters.version

    def pull(self, held: Versions) -> Weights | None:
        """The copy as it was last renewed."""
        return Weights(self._versions, self._tensors) if held != self._versions else None

    def can_push(self) -> bool:
        """Whether the weights behind it take gradients now."""
        return self._parameters.can_push()

    def push(self, gradients: Sequence[torch.Tensor | None], based_on: Versions) -> bool:
        """Hands the gradients on, and renews the copy."""
        taken = self._parameters.push(gradients, based_on)
        self._renew()
        return taken

    def state_dict(self) -> State:
        """The copy and its versions."""
        return {"versions": list(self._versions), "tensors": dict(self._tensors)}

    def load_state_dict(self, state: State) -> None:
        """The copy of `state_dict`."""
        self._versions = tuple(state["versions"])
        with torch.no_grad():
            for name, tensor in self._tensors.items():
                tensor.copy_(state["tensors"][name])

"""From what an environment shows to features: `make_encoder`.

A network is a name ("auto", "mlp", "nips", "nature", "impala", "impala_shallow", "grid"), an `nn.Module`, or
"package.module:callable". Refuses, with the shapes seen: unknown names, bodies that do not fit the observation, and
user networks that cannot be imported, do not run, or do not answer float32 [N, features] (`ConfigError`).
"""

from __future__ import annotations

import copy
import importlib

import torch
from torch import nn

from veldt.data import ArraySpec, Tree, tree_items, tree_leaves, tree_map
from veldt.errors import ConfigError, did_you_mean
from veldt.networks.dense import VectorEncoder
from veldt.networks.images import SMALLEST_IMAGE, SMALLEST_SIDE, ImageEncoder, channel_axes

NETWORKS = ("auto", "mlp", *SMALLEST_SIDE)
"""The networks that have a name."""

NetworkChoice = str | nn.Module


class Encoder(nn.Module):
    """Observations, a tree of [N, ...], to float32 [N, features]: one encoder per entry, concatenated in sorted order.

    With `whole`, a single module reads the whole tree instead.
    """

    def __init__(self, parts: list[nn.Module], features: int, *, whole: bool) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.features = features
        self._whole = whole

    def forward(self, obs: Tree) -> torch.Tensor:
        """Tree of [N, ...] -> float32 [N, features]."""
        if self._whole:
            out: torch.Tensor = self.parts[0](obs)
            return out
        outputs = [part(leaf) for part, leaf in zip(self.parts, tree_leaves(obs), strict=True)]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)


def make_encoder(seen: Tree, network: NetworkChoice, hidden: tuple[int, ...]) -> Encoder:
    """The encoder of what an agent sees (`EnvSpec.seen`, a tree of `ArraySpec`).

    `hidden` are the widths of the dense ReLU layers of each entry's encoder, after the convolutions if it has any.
    "auto" takes nature for images of at least 36 a side, grid for smaller ones and for grids, dense layers for all
    else. A named convolutional network reads the images, and "auto" the other entries. A user's module is copied,
    so that agents made from it share no weights; a callable is called with `seen`. Both get the observations as
    they are, uint8 included.
    """
    if isinstance(network, nn.Module):
        return _user_encoder(copy.deepcopy(network), seen, type(network).__name__)
    if ":" in network:
        return _user_encoder(_call_user(network, seen), seen, network)
    if network not in NETWORKS:
        raise ConfigError(
            f"unknown network {network!r}{did_you_mean(network, NETWORKS)} "
            f"(known: {', '.join(NETWORKS)}, or 'package.module:callable')"
        )
    leaves = tree_leaves(seen)
    if network in SMALLEST_SIDE and not any(_is_image(leaf) for leaf in leaves):
        raise ConfigError(f"network {network!r} needs an image, but the environment shows {describe(seen)}; use 'auto'")
    parts = [_leaf_encoder(leaf, network, hidden) for leaf in leaves]
    return Encoder(list(parts), sum(part.features for part in parts), whole=False)


def describe(seen: Tree) -> str:
    """The shapes of a tree of specs in words: `uint8 [84, 84, 3]`, or `{'a': float32 [4], 'b': int64 []}`."""
    items = [(path, f"{leaf.dtype} {list(leaf.shape)}") for path, leaf in tree_items(seen)]
    if not isinstance(seen, dict):
        return items[0][1]
    return "{" + ", ".join(f"{path!r}: {text}" for path, text in items) + "}"


def _is_image(spec: ArraySpec) -> bool:
    """Whether a convolution could read it: 3 or 4 axes, or 2 of uint8 and an image's size; not a category."""
    if spec.categories is not None or not 2 <= len(spec.shape) <= 4:
        return False
    side = min(channel_axes(spec.shape)[1:])
    if len(spec.shape) == 2:
        return spec.dtype == "uint8" and side >= SMALLEST_IMAGE
    return side >= SMALLEST_SIDE["grid"]


def _leaf_encoder(spec: ArraySpec, network: str, hidden: tuple[int, ...]) -> VectorEncoder | ImageEncoder:
    if network == "mlp" or not _is_image(spec):
        return VectorEncoder(spec, hidden)
    if network == "auto":
        network = "nature" if min(channel_axes(spec.shape)[1:]) >= SMALLEST_IMAGE else "grid"
    return ImageEncoder(spec, network, hidden)


def _call_user(network: str, seen: Tree) -> nn.Module:
    """What "package.module:callable" returns for `seen`."""
    module_name, _, name = network.partition(":")
    try:
        make = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"network {network!r} cannot be imported: {error}; give 'package.module:callable'") from error
    try:
        made = make(seen)
    except Exception as error:
        raise ConfigError(
            f"network {network!r} failed when called with the observations' specs, {describe(seen)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(made, nn.Module):
        raise ConfigError(f"network {network!r} must return a torch.nn.Module, got {type(made).__name__}")
    return made


def _user_encoder(module: nn.Module, seen: Tree, name: str) -> Encoder:
    """Runs a user's module on two observations of zeros to learn its features, and to refuse it early."""
    zeros = tree_map(lambda spec: torch.from_numpy(spec.zeros(2)), seen)
    shapes = f"{describe(seen)}, each with a leading batch axis"
    training = module.training
    try:
        with torch.no_grad():
            out = module.eval()(zeros)
    except Exception as error:
        raise ConfigError(f"network {name!r} failed on observations {shapes}: {type(error).__name__}: {error}") from error
    module.train(training)
    if not isinstance(out, torch.Tensor) or out.dim() != 2 or len(out) != 2 or out.dtype != torch.float32:
        answer = f"{out.dtype} {list(out.shape)}" if isinstance(out, torch.Tensor) else type(out).__name__
        raise ConfigError(
            f"network {name!r} must map observations {shapes}, to float32 [batch, features]; "
            f"for a batch of 2 it answered {answer}"
        )
    return Encoder([module], out.shape[1], whole=True)

"""Convolutional bodies for pixels and small grids: nips, nature, impala and grid.

Observations arrive as [N, k, H, W] (stacked frames), [N, H, W, C], [N, k, H, W, C] or [N, H, W], of any dtype, and
leave as float32 [N, features]. Pixels (uint8) are divided by 255, the small integer codes of grids by 10, booleans
and floats are taken as they are. Refuses images smaller than a body's receptive field (`ConfigError`).

Inputs are put in channels_last order, in which torch's CPU convolutions train about a tenth faster; weights stay
contiguous, because torch's fused Adam silently mixes up elements when the layouts of weight and state differ, as they
would after loading a checkpoint. Layers keep torch's default initialisation, U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for
weights and biases: DQN's.
"""

from __future__ import annotations

import torch
from torch import nn

from veldt.data import ArraySpec
from veldt.errors import ConfigError
from veldt.networks.dense import dense_layers

SMALLEST_IMAGE = 36
"""Pixels a side below which nature's three unpadded convolutions have nothing left."""

SMALLEST_SIDE = {"nips": 20, "nature": SMALLEST_IMAGE, "impala": 1, "impala_shallow": 20, "grid": 3}
"""The bodies by name, with the fewest pixels a side that each can read."""


def channel_axes(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(channels, height, width) of one observation of 2 to 4 axes.

    Three axes are frames first, [k, H, W], if the first is smaller than both others, else channels last, [H, W, C];
    four are [k, H, W, C], two are [H, W].
    """
    if len(shape) == 2:
        return 1, shape[0], shape[1]
    if len(shape) == 4:
        return shape[0] * shape[3], shape[1], shape[2]
    if _frames_first(shape):
        return shape[0], shape[1], shape[2]
    return shape[2], shape[0], shape[1]


def _frames_first(shape: tuple[int, ...]) -> bool:
    return shape[0] < min(shape[1:])


class Pixels(nn.Module):
    """Any observation of 2 to 4 axes as float32 [N, C, H, W] in channels_last order, scaled to about 1."""

    def __init__(self, spec: ArraySpec, body: str) -> None:
        super().__init__()
        self._shape = spec.shape
        codes = body == "grid" and (spec.high is None or spec.high >= 255)
        self._scale = {"bool": 1.0, "uint8": 1 / 10 if codes else 1 / (spec.high or 255)}.get(spec.dtype, 1.0)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """[N, *shape] -> float32 [N, C, H, W]."""
        pixels = obs.float()
        if self._scale != 1.0:
            pixels = pixels.mul_(self._scale) if pixels is not obs else pixels * self._scale
        if len(self._shape) == 2:
            pixels = pixels.unsqueeze(1)
        elif len(self._shape) == 4:
            pixels = pixels.permute(0, 1, 4, 2, 3).flatten(1, 2)
        elif not _frames_first(self._shape):
            pixels = pixels.permute(0, 3, 1, 2)
        return pixels.contiguous(memory_format=torch.channels_last)


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))): IMPALA's block, without normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Float32 [N, C, H, W] -> the same."""
        inner: torch.Tensor = self.second(self.first(x.relu()).relu_())
        return x + inner


def _plain(channels: int, layers: tuple[tuple[int, int, int], ...]) -> nn.Sequential:
    """Unpadded convolutions (channels, kernel, stride), each followed by ReLU."""
    modules: list[nn.Module] = []
    for width, kernel, stride in layers:
        modules += [nn.Conv2d(channels, width, kernel, stride), nn.ReLU(inplace=True)]
        channels = width
    return nn.Sequential(*modules)


def _residual(channels: int) -> nn.Sequential:
    """Three stages of convolution, pooling to half the side, and two residual blocks; ends in ReLU."""
    modules: list[nn.Module] = []
    for width in (16, 32, 32):
        modules += [nn.Conv2d(channels, width, 3, padding=1), nn.MaxPool2d(3, 2, padding=1)]
        modules += [ResidualBlock(width), ResidualBlock(width)]
        channels = width
    return nn.Sequential(*modules, nn.ReLU(inplace=True))


def make_body(name: str, channels: int) -> nn.Sequential:
    """The convolutions of one network, float32 [N, channels, H, W] -> [N, C, H', W'].

    nips: Mnih et al. 2013, section 4.1; also IMPALA's shallow network (Espeholt et al. 2018, figure 3).
    nature: Mnih et al. 2015, methods. impala: Espeholt et al. 2018, figure 3 (deep); torch pads its pooling on both
    sides where TensorFlow's SAME pads the far side alone. grid: Young and Tian 2019 (MinAtar), section 3.
    """
    if name in ("nips", "impala_shallow"):
        return _plain(channels, ((16, 8, 4), (32, 4, 2)))
    if name == "nature":
        return _plain(channels, ((32, 8, 4), (64, 4, 2), (64, 3, 1)))
    if name == "grid":
        return _plain(channels, ((16, 3, 1),))
    return _residual(channels)


class ImageEncoder(nn.Module):
    """Convolutions, then dense ReLU layers of the widths `hidden`: [N, *shape] -> float32 [N, features].

    The papers' widths: nips 256, nature 512, impala and impala_shallow 256, grid 128. With hidden = () the features
    are the flattened convolutions. They are flattened as [H', W', C], which in channels_last order costs no copy.
    """

    def __init__(self, spec: ArraySpec, body: str, hidden: tuple[int, ...]) -> None:
        super().__init__()
        channels, height, width = channel_axes(spec.shape)
        smallest = SMALLEST_SIDE[body]
        if min(height, width) < smallest:
            raise ConfigError(
                f"network {body!r} needs images of at least {smallest} x {smallest}, "
                f"but the environment shows {spec.dtype} {list(spec.shape)}; use network 'auto', 'grid' or 'mlp'"
            )
        self.pixels = Pixels(spec, body)
        self.body = make_body(body, channels)
        with torch.no_grad():
            flat = self.body(torch.zeros(1, channels, height, width)).numel()
        self.dense = dense_layers(flat, hidden)
        self.features = hidden[-1] if hidden else flat

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """[N, *shape] -> float32 [N, features]."""
        out: torch.Tensor = self.body(self.pixels(obs))
        out = self.dense(out.permute(0, 2, 3, 1).flatten(1))
        return out

"""Encoders: which network reads what, what it computes, and what is refused."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from veldt.data import ArraySpec, tree_map
from veldt.errors import ConfigError
from veldt.networks.dense import VectorEncoder
from veldt.networks.encoders import make_encoder
from veldt.networks.images import ImageEncoder, channel_axes

VECTOR = ArraySpec((4,), "float32")
ATARI = ArraySpec((4, 84, 84), "uint8", 0, 255)
RGB = ArraySpec((84, 64, 3), "uint8", 0, 255)
MINATAR = ArraySpec((10, 10, 6), "bool")
MINIGRID = ArraySpec((7, 7, 3), "uint8", 0, 255)
CATEGORY = ArraySpec((), "int64", categories=5)
MIXED = {"image": MINIGRID, "direction": ArraySpec((), "int64", categories=4), "speed": ArraySpec((2,), "float32")}


def observations(seen, batch):
    random = np.random.default_rng(0)

    def draw(spec):
        top = spec.categories or {"bool": 2, "uint8": 11}.get(spec.dtype, 100)
        return torch.from_numpy(np.asarray(random.integers(top, size=(batch, *spec.shape))).astype(spec.dtype))

    return tree_map(draw, seen)


@pytest.mark.parametrize(
    ("seen", "network", "hidden", "features"),
    [
        (VECTOR, "auto", (8, 16), 16),
        (VECTOR, "mlp", (), 4),
        (ArraySpec((3, 2), "float64"), "auto", (), 6),
        (ArraySpec((2, 2, 5), "float32"), "auto", (), 20),
        (CATEGORY, "auto", (), 5),
        (ArraySpec((3,), "int64", categories=5), "auto", (), 15),
        (ATARI, "auto", (512,), 512),
        (ATARI, "auto", (), 64 * 7 * 7),
        (ATARI, "nips", (256,), 256),
        (ATARI, "nips", (), 32 * 9 * 9),
        (ATARI, "impala_shallow", (), 32 * 9 * 9),
        (ATARI, "impala", (256,), 256),
        (ATARI, "impala", (), 32 * 11 * 11),
        (ATARI, "mlp", (), 4 * 84 * 84),
        (RGB, "auto", (), 64 * 7 * 4),
        (ArraySpec((84, 84), "uint8"), "auto", (), 64 * 7 * 7),
        (ArraySpec((4, 84, 84, 3), "uint8"), "auto", (), 64 * 7 * 7),
        (ArraySpec((36, 36, 3), "uint8"), "auto", (), 64),
        (ArraySpec((35, 36, 3), "uint8"), "auto", (), 16 * 33 * 34),
        (MINATAR, "auto", (), 16 * 8 * 8),
        (MINATAR, "auto", (128,), 128),
        (ArraySpec((10, 10, 10), "bool"), "auto", (), 16 * 8 * 8),
        (ArraySpec((4, 10, 10), "float32"), "auto", (), 16 * 8 * 8),
        (MINIGRID, "impala", (), 32),
        (MIXED, "auto", (8,), 24),
        (MIXED, "grid", (), 4 + 16 * 5 * 5 + 2),
        ({"a": {"b": VECTOR}, "c": VECTOR}, "auto", (), 8),
    ],
)
def test_what_is_seen_becomes_float32_features_for_any_batch(seen, network, hidden, features):
    encoder = make_encoder(seen, network, hidden)
    assert encoder.features == features
    for batch in (1, 3):
        out = encoder(observations(seen, batch))
        assert out.shape == (batch, features)
        assert out.dtype == torch.float32
    if list(encoder.parameters()):
        out.sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((4, 84, 84), (4, 84, 84)),
        ((84, 84, 1), (1, 84, 84)),
        ((210, 160, 3), (3, 210, 160)),
        ((10, 10, 10), (10, 10, 10)),
        ((7, 7, 3), (3, 7, 7)),
        ((4, 7, 8, 3), (12, 7, 8)),
        ((36, 40), (1, 36, 40)),
    ],
)
def test_channels_are_found_in_stacks_and_in_single_images(shape, axes):
    assert channel_axes(shape) == axes


@pytest.mark.parametrize("seen", [ATARI, RGB, ArraySpec((2, 40, 44, 3), "uint8"), ArraySpec((40, 44), "uint8")])
def test_nature_computes_what_its_layers_say_in_the_plain_layout(seen):
    encoder = make_encoder(seen, "nature", (16,)).double()
    encoder.parts[0].pixels.forward = plain_pixels(seen)
    pixels = observations(seen, 2)
    got = encoder(pixels)
    out = plain_pixels(seen)(pixels).contiguous()
    convolutions = [module for module in encoder.modules() if isinstance(module, nn.Conv2d)]
    for layer, stride in zip(convolutions, (4, 2, 1), strict=True):
        out = torch.nn.functional.conv2d(out, layer.weight.contiguous(), layer.bias, stride).clamp(min=0)
    dense = encoder.parts[0].dense[0]
    want = (out.movedim(1, -1).reshape(2, -1) @ dense.weight.T + dense.bias).clamp(min=0)
    torch.testing.assert_close(got, want)


def plain_pixels(seen):
    """The observation as [N, C, H, W] in [0, 1], by moving axes one at a time."""

    def convert(obs):
        plain = obs.double() / 255
        if len(seen.shape) == 2:
            return plain[:, None]
        if len(seen.shape) == 4:
            frames = [plain[:, k].movedim(-1, 1) for k in range(seen.shape[0])]
            return torch.cat(frames, dim=1)
        return plain if seen.shape[0] == 4 else plain.movedim(-1, 1)

    return convert


@pytest.mark.parametrize(
    ("seen", "network", "scale"),
    [
        (ATARI, "nature", 1 / 255),
        (RGB, "impala", 1 / 255),
        (MINIGRID, "grid", 1 / 10),
        (ArraySpec((7, 7, 3), "uint8", 0, 20), "grid", 1 / 20),
        (MINATAR, "grid", 1),
        (ArraySpec((40, 40, 3), "float32"), "nature", 1),
        (ArraySpec((2, 40, 44, 3), "uint8"), "nature", 1 / 255),
        (ArraySpec((40, 44), "uint8"), "nature", 1 / 255),
    ],
)
def test_pixels_are_scaled_moved_to_channels_and_left_as_they_were(seen, network, scale):
    encoder = make_encoder(seen, network, ()).parts[0]
    assert isinstance(encoder, ImageEncoder)
    obs = observations(seen, 2)
    kept = obs.clone()
    got = encoder.pixels(obs)
    torch.testing.assert_close(got, (plain_pixels(seen)(obs) * 255 * scale).float())
    assert torch.equal(obs, kept)
    assert got.is_contiguous(memory_format=torch.channels_last)


def test_flattening_convolutions_costs_no_copy():
    encoder = make_encoder(ATARI, "nature", ()).parts[0]
    out = encoder.body(encoder.pixels(observations(ATARI, 2)))
    assert out.permute(0, 2, 3, 1).flatten(1).data_ptr() == out.data_ptr()


def test_weights_are_contiguous_so_that_a_fused_optimiser_loaded_from_disk_pairs_elements_rightly():
    encoder = make_encoder(ATARI, "nature", (8,))
    encoder(observations(ATARI, 2)).sum().backward()
    for parameter in encoder.parameters():
        assert parameter.is_contiguous()
        assert parameter.grad.is_contiguous()


def test_a_category_is_one_hot_and_bytes_of_a_vector_are_scaled():
    category = VectorEncoder(CATEGORY, ())
    assert category(torch.tensor([0, 4])).tolist() == [[1, 0, 0, 0, 0], [0, 0, 0, 0, 1]]
    memory = VectorEncoder(ArraySpec((2,), "uint8"), ())
    assert memory(torch.tensor([[0, 255]], dtype=torch.uint8)).tolist() == [[0, 1]]


def test_a_number_without_axes_is_one_feature():
    assert make_encoder(ArraySpec((), "float32"), "auto", ())(torch.tensor([1.5, 2])).tolist() == [[1.5], [2]]


def test_entries_of_a_dict_are_concatenated_in_sorted_order():
    seen = {"b": ArraySpec((1,), "float32"), "a": ArraySpec((2,), "float32")}
    obs = {"b": torch.tensor([[3.0]]), "a": torch.tensor([[1.0, 2.0]])}
    assert make_encoder(seen, "auto", ())(obs).tolist() == [[1, 2, 3]]


class Own(nn.Module):
    def __init__(self, seen=VECTOR):
        super().__init__()
        self.layer = nn.LazyLinear(7)
        self.seen = seen

    def forward(self, obs):
        return self.layer(obs.float())


class TwoAnswers(Own):
    def forward(self, obs):
        return obs, obs


class Flat(Own):
    def forward(self, obs):
        return obs.sum(1)


class Wrong(nn.Linear):
    def __init__(self, seen):
        super().__init__(5, 7)


def not_a_module(seen):
    return 3


def fails(seen):
    raise ValueError("no such observation")


def test_a_users_module_is_run_once_to_learn_its_features():
    encoder = make_encoder(VECTOR, Own(), (512,))
    assert encoder.features == 7
    assert encoder(torch.zeros(3, 4)).shape == (3, 7)


def test_agents_made_from_one_module_share_no_weights():
    module = nn.Linear(4, 3)
    one, two = make_encoder(VECTOR, module, ()), make_encoder(VECTOR, module, ())
    with torch.no_grad():
        next(one.parameters()).zero_()
    assert next(two.parameters()).abs().sum() > 0
    assert module.weight.abs().sum() > 0


def test_looking_at_a_users_module_leaves_its_mode_and_statistics_alone():
    module = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5))
    encoder = make_encoder(VECTOR, module, ())
    assert all(part.training for part in encoder.modules())
    assert encoder.parts[0][0].num_batches_tracked == 0


def test_a_users_callable_gets_the_specs_of_what_is_seen():
    encoder = make_encoder(VECTOR, f"{__name__}:Own", ())
    assert encoder.features == 7
    assert encoder.parts[0].seen is VECTOR


@pytest.mark.parametrize(
    ("seen", "network", "message"),
    [
        (VECTOR, "natrue", "unknown network 'natrue'; did you mean 'nature'"),
        (VECTOR, "nature", r"network 'nature' needs an image, but the environment shows float32 \[4\]; use 'auto'"),
        (MINATAR, "nature", r"needs images of at least 36 x 36, but the environment shows bool \[10, 10, 6\]"),
        (VECTOR, "nowhere.at_all:Net", "network 'nowhere.at_all:Net' cannot be imported: No module named 'nowhere'"),
        (VECTOR, f"{__name__}:Missing", "has no attribute 'Missing'"),
        (VECTOR, ":Net", "network ':Net' cannot be imported"),
        (VECTOR, f"{__name__}:not_a_module", "must return a torch.nn.Module, got int"),
        (VECTOR, f"{__name__}:fails", r"failed when called with .* float32 \[4\]: ValueError: no such observation"),
        (VECTOR, f"{__name__}:Wrong", r"failed on observations float32 \[4\], each .*: RuntimeError: mat1 and mat2"),
        (VECTOR, TwoAnswers(), r"network 'TwoAnswers' must map .*; for a batch of 2 it answered tuple"),
        (
            VECTOR,
            Flat(),
            r"must map .* to float32 \[batch, features\]; for a batch of 2 it answered torch.float32 \[2\]",
        ),
        (MIXED, Own(), r"observations \{'direction': int64 \[\], 'image': uint8 \[7, 7, 3\], 'speed': float32 \[2\]\}"),
    ],
)
def test_networks_that_do_not_fit_are_refused_with_the_shapes_seen(seen, network, message):
    with pytest.raises(ConfigError, match=message):
        make_encoder(seen, network, (8,))


def test_an_encoder_survives_a_copy():
    encoder = make_encoder(MIXED, "auto", (8,))
    obs = observations(MIXED, 2)
    torch.testing.assert_close(copy.deepcopy(encoder)(obs), encoder(obs))

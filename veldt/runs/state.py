"""A part's `State` taken apart into JSON and arrays, and put together again exactly.

Taken: dicts with string or integer keys, lists, tuples, None, bool, int of any size, float, str, numpy arrays and
scalars, tensors. Refused with the path of the culprit (`TypeError`): everything else, in particular objects, enums,
named tuples, object arrays and sparse tensors. There is no pickle, so that reading cannot execute code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from veldt.core import State

Json = Any
"""None, bool, int, float, str, and lists and string-keyed dicts of these."""

Array = np.ndarray | torch.Tensor

ARRAY_KINDS = "biufcmMSU"
"""The numpy dtype kinds whose bytes are their value."""


def split(state: State) -> tuple[Json, dict[str, Array]]:
    """A skeleton that `json` can write, and the arrays of `state` by their paths, such as `optimizer/state/0/exp_avg`.

    Arrays are not copied. In the skeleton stands `{"$array": path}` for an array, `{"$tensor": path}` for a tensor,
    `{"$scalar": path}` for a numpy scalar; `$int`, `$float`, `$tuple`, `$pairs` hold what JSON cannot.
    """
    arrays: dict[str, Array] = {}
    return _encode(state, "", arrays), arrays


def join(skeleton: Json, arrays: Mapping[str, Array]) -> Any:
    """The state that `split` took apart. Tensors come back as tensors on the CPU, without gradients."""
    if isinstance(skeleton, list):
        return [join(item, arrays) for item in skeleton]
    if not isinstance(skeleton, dict):
        return skeleton
    mark = next(iter(skeleton), "")
    if not mark.startswith("$"):
        return {key: join(value, arrays) for key, value in skeleton.items()}
    content = skeleton[mark]
    if mark in ("$array", "$tensor"):
        return arrays[content]
    if mark == "$scalar":
        return arrays[content][()]
    if mark == "$int":
        return int(content, 16)
    if mark == "$float":
        return float(content)
    if mark == "$tuple":
        return tuple(join(item, arrays) for item in content)
    if mark == "$pairs":
        return {key: join(value, arrays) for key, value in content}
    raise ValueError(f"unknown mark {mark!r} in a saved state")


def _encode(value: Any, path: str, arrays: dict[str, Array]) -> Json:
    if value is None or type(value) in (bool, str):
        return value
    if type(value) is int:
        return value if -(2**63) <= value < 2**63 else {"$int": hex(value)}
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, np.generic):
        return {"$scalar": _keep(np.asarray(value), path, arrays)}
    if isinstance(value, np.ndarray):
        return {"$array": _keep(value, path, arrays)}
    if isinstance(value, torch.Tensor):
        return {"$tensor": _keep(value, path, arrays)}
    if isinstance(value, dict):
        return _encode_dict(value, path, arrays)
    if type(value) in (list, tuple):
        items = [_encode(item, f"{path}/{index}", arrays) for index, item in enumerate(value)]
        return items if type(value) is list else {"$tuple": items}
    raise TypeError(f"cannot save {path.strip('/') or 'state'}: {type(value).__name__} is not data")


def _encode_dict(value: dict[Any, Any], path: str, arrays: dict[str, Array]) -> Json:
    for key in value:
        if type(key) not in (str, int):
            raise TypeError(f"cannot save {path.strip('/') or 'state'}: key {key!r} is neither a string nor an integer")
    encoded = [(key, _encode(item, f"{path}/{key}", arrays)) for key, item in value.items()]
    if all(isinstance(key, str) and not key.startswith("$") for key in value):
        return dict(encoded)
    return {"$pairs": [list(pair) for pair in encoded]}


def _keep(array: Array, path: str, arrays: dict[str, Array]) -> str:
    """Puts `array` among the arrays; the name it got, which is its path unless keys with slashes made two the same."""
    if isinstance(array, np.ndarray):
        savable = array.dtype.kind in ARRAY_KINDS and type(array) in (np.ndarray, np.memmap)
    else:
        savable = array.layout == torch.strided and not array.is_quantized
    if not savable:
        raise TypeError(f"cannot save {path.strip('/') or 'state'}: its {type(array).__name__} is not plain memory")
    name = path.strip("/") or "state"
    while name in arrays:
        name += "'"
    arrays[name] = array.detach() if isinstance(array, torch.Tensor) else array
    return name

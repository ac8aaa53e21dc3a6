"""Arrays and tensors as bytes in a file, and back: any dtype whose bytes are its value, any shape.

One layout for all: arrays one after the other, described by a table (JSON). A `.safetensors` file is the same bytes
behind the header of that format, so that other tools read it too. Nothing is copied that is not on another device or
non-contiguous, and of those one at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from veldt.runs.files import Piece
from veldt.runs.state import ARRAY_KINDS, Array

Into = Callable[[str, tuple[int, ...], np.dtype[Any]], np.ndarray]
"""Called with an array's path in the state, its shape and dtype: the contiguous memory to read it into."""

TORCH_DTYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}

SAFETENSORS_DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
}


class Entry(NamedTuple):
    """Where one array stands: `dtype` is `torch.float32` for a tensor, numpy's `<f4` for an array."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int


def table_of(arrays: Mapping[str, Array]) -> dict[str, Entry]:
    """The layout of `arrays` in a file, widest dtype first so that all stand aligned, then by name."""
    table: dict[str, Entry] = {}
    offset = 0
    for name, array in sorted(arrays.items(), key=lambda item: (-_item_bytes(item[1]), item[0])):
        dtype = str(array.dtype) if isinstance(array, torch.Tensor) else array.dtype.str
        size_bytes = prod(array.shape) * _item_bytes(array)
        table[name] = Entry(dtype, tuple(array.shape), offset, size_bytes)
        offset += size_bytes
    return table


def pieces_of(arrays: Mapping[str, Array], table: Mapping[str, Entry]) -> Iterator[Piece]:
    """The bytes of the arrays in the order of the table."""
    for name in table:
        yield _as_bytes(arrays[name]).data


def safetensors_header(table: Mapping[str, Entry], metadata: Mapping[str, str] | None = None) -> bytes:
    """What stands before the arrays in a `.safetensors` file. Dtypes that format does not know are stored as bytes."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    for name, entry in table.items():
        dtype = SAFETENSORS_DTYPES.get(_plain_name(entry.dtype))
        header[name] = {
            "dtype": dtype or "U8",
            "shape": entry.shape if dtype else [entry.size_bytes],
            "data_offsets": [entry.offset, entry.offset + entry.size_bytes],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def check_weights(weights: Mapping[str, Any]) -> None:
    """Raises `TypeError` unless `weights` are tensors by name, of dtypes that every reader of safetensors knows."""
    for name, tensor in weights.items():
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"weights are tensors by name, but {name} is {type(tensor).__name__}")
        if _plain_name(str(tensor.dtype)) not in SAFETENSORS_DTYPES:
            raise TypeError(f"weights of dtype {tensor.dtype} cannot be saved as safetensors: {name}")


def read_arrays(path: Path, table: Mapping[str, Entry], into: Into | None = None) -> dict[str, Array]:
    """Reads the arrays that end the file `path`, each straight into its own memory.

    `into` says where numpy arrays shall go; without it, new memory. Raises `ValueError` where the file, the table or
    the memory offered do not fit each other.
    """
    start = path.stat().st_size - sum(entry.size_bytes for entry in table.values())
    arrays: dict[str, Array] = {}
    with path.open("rb", buffering=0) as file:
        for name, entry in table.items():
            array, memory = _room(name, entry, into)
            file.seek(start + entry.offset)
            _fill(file, memory, name)
            arrays[name] = array
    return arrays


def _room(name: str, entry: Entry, into: Into | None) -> tuple[Array, np.ndarray]:
    """Memory for one array: as what it is, and as bytes."""
    if entry.dtype in TORCH_DTYPES:
        memory = np.empty(entry.size_bytes, np.uint8)
        tensor = torch.empty(entry.shape, dtype=TORCH_DTYPES[entry.dtype])
        if entry.size_bytes:
            tensor = torch.from_numpy(memory).view(TORCH_DTYPES[entry.dtype]).reshape(entry.shape)
        return tensor, memory
    dtype = np.dtype(entry.dtype)
    if dtype.kind not in ARRAY_KINDS:
        raise ValueError(f"{name} has dtype {entry.dtype}, which is not plain memory")
    array = into(name, entry.shape, dtype) if into else np.empty(entry.shape, dtype)
    if array.shape != entry.shape or array.dtype != dtype or not array.flags.c_contiguous:
        raise ValueError(f"{name} is {dtype} {entry.shape}, but is to be read into {array.dtype} {array.shape}")
    return array, _as_bytes(array)


def _fill(file: Any, memory: np.ndarray, name: str) -> None:
    view = memory.data
    while len(view):
        count = file.readinto(view)
        if not count:
            raise ValueError(f"{name} ends {len(view)} bytes early")
        view = view[count:]


def _as_bytes(array: Array) -> np.ndarray:
    """The bytes of an array, uint8 [n]: its own memory if that is contiguous and on the CPU."""
    if isinstance(array, torch.Tensor):
        tensor = array.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
        return tensor.view(torch.uint8).numpy() if tensor.numel() else np.empty(0, np.uint8)
    if array.nbytes == 0:
        return np.empty(0, np.uint8)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _item_bytes(array: Array) -> int:
    return array.element_size() if isinstance(array, torch.Tensor) else array.itemsize


def _plain_name(dtype: str) -> str:
    """`float32` for `torch.float32` and `<f4`; a name the format does not have for numpy's foreign byte orders."""
    if dtype in TORCH_DTYPES:
        return dtype.removeprefix("torch.")
    return np.dtype(dtype).name if np.dtype(dtype).isnative else dtype

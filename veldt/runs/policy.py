"""The best policy of a run: `policy/policy.safetensors`, and `policy/policy.json` to be read by people.

The safetensors file alone is enough to rebuild the agent: what describes it stands in the file's metadata, so that
weights and description can never be of two different policies, and the file can be copied on its own.
Refused: files that are missing, damaged, not Veldt's, or of a newer schema.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from veldt.errors import RunFolderError
from veldt.runs.arrays import check_weights, pieces_of, safetensors_header, table_of
from veldt.runs.files import Skipped, replace_file, why_not
from veldt.runs.manifest import check_schema

SCHEMA = 1


class Policy(NamedTuple):
    """Weights by name, on the CPU, and what describes them: system, env, config, return, step."""

    weights: dict[str, torch.Tensor]
    about: dict[str, Any]


def save_policy(folder: Path, weights: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> Skipped | None:
    """Replaces the policy in `folder`. `about` is JSON: what it takes to rebuild the agent, its return, its step.

    A full disk gives `Skipped(reason)` and leaves the policy that was there.
    """
    check_weights(weights)
    table = table_of(weights)
    content = b"".join(pieces_of(weights, table))
    text = json.dumps({"schema": SCHEMA, **about}, indent=1)
    header = safetensors_header(table, {"veldt": text, "crc32": str(zlib.crc32(content))})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / "policy.safetensors", [header, content])
        replace_file(folder / "policy.json", [text.encode()])
    except OSError as error:
        return Skipped(why_not(error, folder))
    return None


def load_policy(path: Path) -> Policy:
    """Reads a policy from its `.safetensors` file, or from the folder that holds `policy.safetensors`."""
    file_path = path / "policy.safetensors" if path.is_dir() else path
    try:
        with safe_open(file_path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise RunFolderError(f"{file_path} does not exist; no policy was saved there") from None
    except (SafetensorError, OSError) as error:
        raise RunFolderError(f"{file_path} cannot be read: {error}") from error
    if "veldt" not in metadata:
        raise RunFolderError(f"{file_path} holds tensors, but does not say what agent they belong to")
    about = json.loads(metadata["veldt"])
    check_schema("policy", about["schema"], SCHEMA)
    content = b"".join(pieces_of(weights, table_of(weights)))
    if str(zlib.crc32(content)) != metadata.get("crc32"):
        raise RunFolderError(f"{file_path} checksum mismatch: the file is damaged")
    return Policy(weights, about)

"""The best policy is one file that says what it is."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from veldt.errors import RunFolderError
from veldt.runs import files, policy
from veldt.runs.files import Skipped
from veldt.runs.policy import load_policy, save_policy

WEIGHTS = {
    "z": torch.arange(6.0).reshape(2, 3),
    "a": torch.zeros(2),
    "c": torch.tensor(3),
    "b": torch.ones(2, dtype=torch.bfloat16),
}
ABOUT = {"system": "dqn", "env": "CartPole-v1", "return": 500.0, "step": 20_000, "config": {"hidden": [64]}}


def test_a_policy_comes_back_with_its_description(tmp_path):
    assert save_policy(tmp_path / "policy", WEIGHTS, ABOUT) is None
    loaded = load_policy(tmp_path / "policy")
    assert loaded.about == {"schema": 1, **ABOUT}
    assert set(loaded.weights) == set(WEIGHTS)
    assert all(torch.equal(loaded.weights[name], tensor) for name, tensor in WEIGHTS.items())
    assert json.loads((tmp_path / "policy" / "policy.json").read_text()) == loaded.about


def test_the_safetensors_file_alone_is_enough(tmp_path):
    save_policy(tmp_path, WEIGHTS, ABOUT)
    os.rename(tmp_path / "policy.safetensors", tmp_path / "pong.safetensors")
    assert load_policy(tmp_path / "pong.safetensors").about["env"] == "CartPole-v1"


def test_a_full_disk_keeps_the_policy_that_was_there(tmp_path, monkeypatch):
    save_policy(tmp_path, WEIGHTS, ABOUT)

    def full(descriptor, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "write", full)
    assert isinstance(save_policy(tmp_path, WEIGHTS, {**ABOUT, "step": 1}), Skipped)
    monkeypatch.undo()
    assert load_policy(tmp_path).about["step"] == 20_000
    assert sorted(os.listdir(tmp_path)) == ["policy.json", "policy.safetensors"]


def test_a_flipped_bit_in_the_weights_is_noticed(tmp_path):
    save_policy(tmp_path, WEIGHTS, ABOUT)
    path = tmp_path / "policy.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunFolderError, match=r"policy.safetensors checksum mismatch: the file is damaged"):
        load_policy(tmp_path)


def test_files_that_are_no_policy_are_refused(tmp_path):
    with pytest.raises(RunFolderError, match=r"does not exist; no policy was saved there"):
        load_policy(tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(RunFolderError, match=r"does not say what agent"):
        load_policy(tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("hello, this is not a policy")
    with pytest.raises(RunFolderError, match=r"cannot be read"):
        load_policy(tmp_path / "text.safetensors")


def test_a_policy_of_a_newer_schema_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(policy, "SCHEMA", 5)
    save_policy(tmp_path, WEIGHTS, ABOUT)
    monkeypatch.undo()
    with pytest.raises(RunFolderError, match=r"^policy schema 5 is newer than 1: upgrade veldt$"):
        load_policy(tmp_path)

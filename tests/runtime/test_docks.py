"""Docks: gradients in mailboxes, one whole slice published at a time, snapshots; whoever vanishes in the middle leaves no half of anything."""

import select
import warnings

import pytest
import torch

from tests.parts.test_shards import ADAGRAD, ADAM, gradients, shards
from veldt.parts.shards import ParameterShard
from veldt.runtime import docks
from veldt.runtime.docks import WRITING, Dock, ShardPort, ShardServer

USERS = 2


@pytest.fixture
def served():
    """Three shards in docks, their servers, and the parameters as users 0 and 1 see them."""
    parts = shards(3, staleness=5)
    made = [Dock(part, ParameterShard.join, USERS) for part in parts]
    servers = [ShardServer(part, dock) for part, dock in zip(parts, made, strict=True)]
    yield made, servers, [joined(made, user) for user in range(USERS)]
    for dock in made:
        dock.close()


def joined(made, user):
    return ParameterShard.join([dock.port(user, {}) for dock in made])


def test_gradients_through_docks_do_what_they_do_without(served):
    _, servers, (first, second) = served
    plain = ParameterShard.join(shards(3, staleness=5))
    for number in range(20):
        user = (first, second)[number % 2]
        held = user.pull(())
        assert user.can_push()
        assert user.push(gradients(number), held.versions)
        assert not user.can_push()  # until the shards have read it
        assert all(server.step() for server in servers)
        assert not any(server.step() for server in servers)
        plain.push(gradients(number), plain.pull(()).versions)
        for name, tensor in plain.pull(()).tensors.items():
            assert torch.equal(user.pull(()).tensors[name], tensor)
    assert second.version == 20


def test_two_users_push_at_once_and_neither_waits_for_the_other(served):
    made, servers, (first, second) = served
    held = first.pull(()).versions
    first.push(gradients(1), held)
    second.push(gradients(2), held)
    assert [len(dock.letters()) for dock in made] == [2, 2, 2]
    for server in servers:
        server.step()
    assert first.version == 2
    assert servers[0].metrics()["gradient_age_updates_max"] == 1.0


def test_who_is_rung_hears_it_until_it_is_silenced(served):
    made, servers, (first, _) = served

    def rings(bell):
        return bool(select.select([bell], [], [], 0)[0])

    first.push(gradients(1), first.pull(()).versions)
    assert rings(made[0].bell)
    servers[0].step()
    assert rings(made[0].bells[0])
    assert not rings(made[0].bells[1])
    made[0].bells[0].silence()
    assert not rings(made[0].bells[0])


def test_a_user_that_vanishes_while_it_writes_has_sent_nothing_and_its_successor_can(served):
    made, servers, (first, _) = served
    held = first.pull(()).versions
    made[0]._letters[0].fill_(float("nan"))  # half of a gradient
    made[0]._header[0] = WRITING, held[0]
    assert not servers[0].step()
    assert not first.can_push()
    successor = joined(made, 0)
    assert successor.can_push()
    assert successor.push(gradients(1), successor.pull(()).versions)
    assert all(server.step() for server in servers)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in successor.pull(()).tensors.values())


@pytest.mark.parametrize("optimizer", [ADAGRAD, ADAM], ids=["AdaGrad", "Adam"])
def test_a_shard_that_vanishes_goes_on_from_its_snapshot_and_rejects_what_came_later(monkeypatch, optimizer):
    (shard,) = shards(1, optimizer)
    dock = Dock(shard, ParameterShard.join, 1)
    port = ShardPort(dock, 0)
    monkeypatch.setattr(docks, "SNAPSHOT_SECONDS", 0.0)
    server = ShardServer(shard, dock)
    for number in range(7):
        port.push(torch.full((shard.size,), 0.5 + number), number)
        server.step()
    kept = {name: tensor.clone() for name, tensor in shard.tensors.items()}
    monkeypatch.setattr(docks, "SNAPSHOT_SECONDS", 1e9)
    for number in range(7, 12):
        port.push(torch.full((shard.size,), 0.5), number)
        server.step()
    port.push(torch.full((shard.size,), 0.5), 12)  # under way when the shard dies
    (reborn,) = shards(1, optimizer)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        successor = ShardServer(reborn, dock)
        assert (reborn.version, port.version) == (7, 7)
        assert all(torch.equal(reborn.tensors[name], tensor) for name, tensor in kept.items())
        successor.step()  # what was under way
        assert (reborn.version, reborn.rejected_gradients) == (7, 1)
        into = torch.empty(reborn.size)
        port.push(torch.ones(reborn.size), port.read(into))
        successor.step()
        assert reborn.version == 8
    assert [str(warning.message) for warning in said] == ["restored at version 7; 1 late pushes rejected"]
    dock.close()


def test_a_snapshot_that_was_being_written_is_passed_over(monkeypatch):
    (shard,) = shards(1)
    dock = Dock(shard, ParameterShard.join, 1)
    server, port = ShardServer(shard, dock), ShardPort(dock, 0)
    port.push(torch.ones(shard.size), 0)
    server.step()
    snapshot = dock.snapshot
    other = 1 - int(snapshot._header[0])
    snapshot._header[1 + other] = -1  # as `publish` does first
    snapshot._buffers[other]["slice"].fill_(float("nan"))
    (reborn,) = shards(1)
    ShardServer(reborn, dock)
    assert reborn.version == 0
    assert bool(torch.isfinite(reborn.tensors["slice"]).all())
    dock.close()

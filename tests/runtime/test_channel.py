"""Channels: neither end can be stopped by the other, whatever that does."""

import os
import signal
import socket
import threading
from multiprocessing import get_context

from veldt.runtime.channel import Channel
from veldt.runtime.worker import Connection

BIG = bytes(3_000_000)


def pair() -> tuple[Channel, Channel]:
    one, two = socket.socketpair()
    return Channel(one), Channel(two)


def test_sending_to_one_that_does_not_read_keeps_what_there_is_no_room_for():
    ours, theirs = pair()
    for number in range(5):
        ours.send((number, BIG))  # returns
    assert not ours.flush()
    received = []
    while len(received) < 5:
        received += theirs.receive()
        ours.flush()
    assert received == [(number, BIG) for number in range(5)]
    assert ours.flush()


def test_both_may_send_more_than_fits_at_once():
    ours, theirs = pair()
    ours.send(BIG)
    theirs.send(BIG)
    got = []
    while len(got) < 2:
        got += [*ours.receive(), *theirs.receive()]
        ours.flush()
        theirs.flush()
    assert got == [BIG, BIG]


def test_who_waits_sends_meanwhile_what_was_kept():
    ours, theirs = pair()

    def answer():
        while not list(theirs.receive()):
            theirs.wait(60.0)
        theirs.send("got it")

    other = threading.Thread(target=answer, daemon=True)
    other.start()
    ours.send(10 * BIG)
    assert ours.wait(60.0)
    assert list(ours.receive()) == ["got it"]
    other.join()


def test_half_a_message_is_not_waited_for():
    ours, theirs = pair()
    ours.send(BIG)
    assert list(theirs.receive()) == []
    ours.close()  # its sender is gone
    while not theirs.closed:
        assert list(theirs.receive()) == []


def send_and_freeze(connection: Connection) -> None:
    channel = Channel(socket.socket(fileno=connection.end))
    channel.send("whole")
    channel.send(BIG)
    os.kill(os.getpid(), signal.SIGSTOP)


def test_a_sender_frozen_or_killed_in_the_middle_of_a_message_costs_that_message_alone():
    ours, theirs = socket.socketpair()
    output = os.open(os.devnull, os.O_WRONLY)
    sender = get_context("spawn").Process(target=send_and_freeze, args=(Connection(theirs, output),), daemon=True)
    sender.start()
    theirs.close()
    os.close(output)
    channel, received = Channel(ours), []
    while not received:
        assert channel.wait(60.0)
        received += channel.receive()
    received += channel.receive()
    assert received == ["whole"]
    sender.kill()
    sender.join()
    while not channel.closed:
        received += channel.receive()
    assert received == ["whole"]

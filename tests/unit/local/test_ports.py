"""Ports that processes are told to listen on."""

from __future__ import annotations

import socket

import pytest

from dynasor_serve.local.ports import HOST, free_port


def test_a_port_is_not_given_twice_before_anybody_listens() -> None:
    given = [free_port() for _ in range(1000)]

    assert len({*given}) == len(given)


def test_a_server_may_listen_on_a_port_that_it_was_given() -> None:
    port = free_port()

    assert port < 32_768, "a port of outgoing connections may be somebody's by the time it is listened on"
    with socket.create_server((HOST, port)) as listener:  # allows addresses in use, as servers do
        assert listener.getsockname() == (HOST, port)


def test_other_processes_are_not_given_it_meanwhile() -> None:
    port = free_port()

    with socket.socket() as probe, pytest.raises(OSError, match="in use"):
        probe.bind((HOST, port))

"""Ports that processes are told to listen on."""

from __future__ import annotations

import socket

from dynasor_serve.local.ports import HOST, free_port


def test_a_port_is_not_given_twice_before_anybody_listens() -> None:
    given = [free_port() for _ in range(1000)]

    assert len({*given}) == len(given)


def test_a_port_is_free_and_none_of_an_outgoing_connection() -> None:
    port = free_port()

    assert port < 32_768
    with socket.socket() as listener:
        listener.bind((HOST, port))

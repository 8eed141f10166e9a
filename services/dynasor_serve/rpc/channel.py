"""Client channels between the processes."""

from __future__ import annotations

import grpc

from dynasor_serve.rpc.server import MAX_MESSAGE_BYTES


def open_channel(address: str) -> grpc.aio.Channel:
    """A channel that reconnects quickly: peers restart, and a reconnect is part of every fail-over."""
    return grpc.aio.insecure_channel(
        address,
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2_000),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.enable_retries", 0),
            # Peers are neighbours: a proxy for the web (http_proxy) would refuse the way to them.
            ("grpc.enable_http_proxy", 0),
        ],
    )

"""Loopback ports for the local servers."""

from __future__ import annotations

import socket

HOST = "127.0.0.1"


class PortTaken(RuntimeError):
    """A port the user asked for is in use; the message says what to do."""


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def choose_port(default: int, asked: int | None) -> int:
    """The asked port, else the default, else any free one. Raises PortTaken when the asked port is in use."""
    if asked is not None:
        if not is_free(asked):
            raise PortTaken(f"port {asked} is taken; name another one, or leave the option out and a free port is chosen")
        return asked
    return default if is_free(default) else any_port()


def any_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])

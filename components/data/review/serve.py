"""The review page on a port of this machine, until somebody ends it."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from components.data.review.review import Review
from components.data.review.server import make_app


@dataclass(frozen=True)
class Desk:
    """A server that is ready to run. `address` carries the token; who has it may decide."""

    address: str
    server: uvicorn.Server
    listening: socket.socket

    def run(self) -> None:
        """Serve until the process is asked to end."""
        self.server.run(sockets=[self.listening])


@contextmanager
def open_desk(review: Review, target: Path, by: str, port: int = 0) -> Iterator[Desk]:
    """A desk on 127.0.0.1; port 0 takes a free one. Raises OSError where the port is taken."""
    with socket.create_server(("127.0.0.1", port)) as listening:
        token = secrets.token_urlsafe(24)
        app = make_app(review, target, by, token)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        yield Desk(f"http://127.0.0.1:{listening.getsockname()[1]}/?token={token}", server, listening)

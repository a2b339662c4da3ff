"""Prefect's profile of this checkout: while the server is up, a bare `prefect` command talks to it."""

from __future__ import annotations

from pathlib import Path

from components.run.filetree import write_whole

NAME = "mmfs"


def path(root: Path) -> Path:
    """The profiles file of the Prefect home that prefect.toml names."""
    return root / ".mmfs" / "prefect" / "profiles.toml"


def write(root: Path, api: str) -> None:
    """Point the checkout's profile at the server."""
    write_whole(path(root), f'active = "{NAME}"\n\n[profiles.{NAME}]\nPREFECT_API_URL = "{api}"\n')


def remove(root: Path) -> None:
    """Without the server, Prefect starts a short-lived one per run over the same database."""
    path(root).unlink(missing_ok=True)

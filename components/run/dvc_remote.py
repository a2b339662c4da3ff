"""The DVC remote of a checkout, read from its configuration files without importing DVC."""

from __future__ import annotations

import configparser
from pathlib import Path


def remote_address(root: Path) -> str | None:
    """Address of the default remote, a folder made absolute; None where none is configured."""
    config = configparser.ConfigParser(interpolation=None)
    folder = root / ".dvc"
    config.read([folder / "config", folder / "config.local"], encoding="utf-8")
    name = config.get("core", "remote", fallback=None)
    url = config.get(f"'remote \"{name}\"'", "url", fallback=None)
    if name is None or url is None:
        return None
    return url if "://" in url else str((folder / url).resolve())


def content_address(root: Path, digest: str) -> str:
    """Where the remote keeps the object of a DVC md5 (`….dir` for a folder's listing)."""
    base = remote_address(root) or str(root / ".dvc" / "cache")
    return f"{base.rstrip('/')}/files/md5/{digest[:2]}/{digest[2:]}"

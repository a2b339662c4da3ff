"""DVC's cache and remote of a checkout, read and written in its configuration files without importing DVC."""

from __future__ import annotations

import configparser
from pathlib import Path

from components.settings import without_secrets


def remote_address(root: Path) -> str | None:
    """Address of the default remote for people and records: a folder made absolute, an address without user and password; None where none
    is configured. DVC reads its secrets from the configuration itself."""
    config = _read(root)
    name = config.get("core", "remote", fallback=None)
    url = config.get(_section(name), "url", fallback=None)
    return None if name is None or url is None else without_secrets(_absolute(url, root))


def remote_options(root: Path, address: str) -> dict[str, str]:
    """What DVC's configuration says of the remote at an address as `remote_address` gives it: endpoint, region, keys. Never to be shown;
    empty where no remote has the address. The user's global DVC configuration is not read."""
    config = _read(root)
    for section in config.sections():
        url = config.get(section, "url", fallback=None)
        if section.startswith("'remote ") and url is not None and without_secrets(_absolute(url, root)).rstrip("/") == address.rstrip("/"):
            return dict(config.items(section))
    return {}


def cache_folder(root: Path) -> Path:
    """Folder of the checkout's cache."""
    return Path(_absolute(_read(root).get("cache", "dir", fallback="cache"), root))


def content_address(root: Path, digest: str) -> str:
    """Where the remote keeps the object of a DVC md5 (`….dir` for a folder's listing)."""
    base = remote_address(root) or str(cache_folder(root))
    return f"{base.rstrip('/')}/files/md5/{digest[:2]}/{digest[2:]}"


def share(root: Path, checkout: Path, remote: str | None = None) -> None:
    """Let `checkout` use the cache and the remotes of `root`: absolute addresses in its config.local, `remote` instead of the default's."""
    shared = configparser.ConfigParser(interpolation=None)
    shared.read(root / ".dvc" / "config.local", encoding="utf-8")
    whole = _read(root)
    shared.read_dict({"cache": {"dir": str(cache_folder(root)), "type": "reflink,hardlink,copy"}})
    for section in whole.sections():
        if section.startswith("'remote ") and "url" in whole[section]:
            shared.read_dict({section: {"url": _absolute(whole[section]["url"], root)}})
    if remote is not None:
        shared.read_dict({"core": {"remote": "environment"}, _section("environment"): {"url": _absolute(remote, root)}})
    target = checkout / ".dvc" / "config.local"
    target.touch(mode=0o600)
    with target.open("w", encoding="utf-8") as file:
        shared.write(file)


def _read(root: Path) -> configparser.ConfigParser:
    config = configparser.ConfigParser(interpolation=None)
    config.read([root / ".dvc" / "config", root / ".dvc" / "config.local"], encoding="utf-8")
    return config


def _section(name: str | None) -> str:
    return f"'remote \"{name}\"'"


def _absolute(address: str, root: Path) -> str:
    return address if "://" in address else str((root / ".dvc" / address).resolve())

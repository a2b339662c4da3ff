"""Starts of a run held to what lies there now: an alias that moves or a folder that changes afterwards is another run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.params import merge, parse
from components.registry.package import RegistryError, resolve_version
from components.settings import Settings
from components.start import Start
from components.starts import check_folder
from components.tracking.mlflow_run import connect
from components.tracking.weights import DIGEST_TAG, folder_digest


def with_pins(values: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """The parameters of a run with the digest at each `init_from` that comes from outside; what has one already is left as it is.

    Raises StageError for a folder that is not there, RegistryError for a model, version or alias that is not registered.
    """
    params = parse(values)
    held = dict(values)
    for stage in params.training_stages:
        start = params.start(stage)
        if start.is_external and start.digest is None:
            key = params.training_key(stage)
            section: dict[str, Any] = {"init_from": str(pin(start, settings, f"{key}.init_from"))}
            for part in reversed(key.split(".")):
                section = {part: section}
            held = merge(held, section)
    return held


def pin(start: Start, settings: Settings, key: str) -> Start:
    """A start from outside with the digest of what it leads to; an alias becomes the version that it names. `key` is for the message."""
    if start.kind != "models":
        return start.pinned(folder_digest(check_folder(start, settings.root, key)))
    version = resolve_version(connect(settings), start.spec)
    if (digest := version.tags.get(DIGEST_TAG)) is None:
        raise RegistryError(f"{version.name} version {version.version} has no digest: it was not registered by mmfs")
    return start.pinned(digest, f"{version.name}/{version.version}")

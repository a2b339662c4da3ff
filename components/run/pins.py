"""Pins: the .dvc files that git holds for what DVC holds."""

from __future__ import annotations

from pathlib import Path

import yaml

from components.run.failures import FailureClass, StageError


def pinned_digest(pin: Path) -> str | None:
    """DVC's md5 in a .dvc file; None where nothing is pinned."""
    try:
        return str(yaml.safe_load(pin.read_text(encoding="utf-8"))["outs"][0]["md5"])
    except FileNotFoundError:
        return None
    except (yaml.YAMLError, KeyError, IndexError, TypeError):
        fix = f"restore it: git checkout -- {pin.parent.name}/{pin.name}" if pin.parent.name == "data" else "restore it with git checkout"
        raise StageError(FailureClass.BAD_DATA, f"{pin} is no DVC file", fix) from None

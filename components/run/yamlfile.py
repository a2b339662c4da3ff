"""YAML files of DVC, which grow to thousands of lines, read and written by libyaml where PyYAML has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from components.run.filetree import write_whole

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def read_yaml(path: Path) -> Any:
    """The plain values of a file. Raises FileNotFoundError and yaml.YAMLError."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)


def write_yaml(path: Path, values: Any) -> None:
    """Write plain values in one step, mappings in their order."""
    write_whole(path, yaml.dump(values, Dumper=_Dumper, sort_keys=False))

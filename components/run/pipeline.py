"""dvc.yaml as data: its stages with `foreach` unfolded, in the file's order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.run.failures import FailureClass, StageError
from components.run.yamlfile import read_yaml

_RANK_STARTER = "components/launch/warm.py"


@dataclass(frozen=True)
class StageSpec:
    """One stage as declared; paths are relative to the checkout."""

    name: str
    cmd: str
    deps: tuple[str, ...]
    params: tuple[str, ...]
    outs: tuple[str, ...]

    @property
    def starts_ranks(self) -> bool:
        """Whether its code starts rank processes, which a zygote makes quicker."""
        return _RANK_STARTER in self.deps


def read_pipeline(dvc_yaml: Path) -> dict[str, StageSpec]:
    """Every stage by its address (`finetune@vqa`). Raises StageError when the file cannot be used."""
    try:
        declared = read_yaml(dvc_yaml)["stages"]
        stages = [stage for name, body in declared.items() for stage in _unfold(name, body)]
    except FileNotFoundError:
        raise StageError(FailureClass.BAD_CONFIG, f"{dvc_yaml} does not exist", "run from the repository root") from None
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise StageError(FailureClass.BAD_CONFIG, f"{dvc_yaml} cannot be read: {error}", "see `dvc repro --dry`") from None
    return {stage.name: stage for stage in stages}


def _unfold(name: str, body: Mapping[str, Any]) -> list[StageSpec]:
    if "foreach" not in body:
        return [_stage(name, body, "")]
    return [_stage(f"{name}@{item}", body["do"], str(item)) for item in body["foreach"]]


def _stage(name: str, body: Mapping[str, Any], item: str) -> StageSpec:
    def listed(section: str) -> tuple[str, ...]:
        entries = (next(iter(entry)) if isinstance(entry, dict) else entry for entry in body.get(section, []))
        return tuple(entry.replace("${item}", item) for entry in entries)

    return StageSpec(name, body["cmd"].replace("${item}", item), listed("deps"), listed("params"), listed("outs"))

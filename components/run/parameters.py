"""The parameters of a run: params.yaml, an overlay, assignments, the user's data; merged, then checked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from components.architecture import architecture, check_trainable, stage_architecture
from components.data.sources.folder import documents_files
from components.params import PARAMS_FILE, Params, ParamsError, merge, override, parse, read_mapping
from components.starts import check_starts
from model.config import ConfigError

BASE = "base"
"""Key of an overlay: the overlay that it differs from."""


def merged(root: Path, preset: str | None = None, overrides: Sequence[str] = (), data: Path | None = None) -> dict[str, Any]:
    """The mapping of a run, every key and the model checked; it may ask for what cannot be started here. Raises ParamsError."""
    values = read_mapping(root / PARAMS_FILE)
    if preset is not None:
        values = merge(values, _overlay(root, preset))
    for assignment in overrides:
        values = override(values, assignment)
    if data is not None:
        if not documents_files(data):
            raise ParamsError(f"--data {data}: no documents.jsonl in this folder; see docs for the format of your own data")
        values = merge(values, {"data": {"source": "folder", "path": str(data.resolve())}})
    _check_model(parse(values))
    return dict(values)


def resolve(root: Path, preset: str | None = None, overrides: Sequence[str] = (), data: Path | None = None) -> dict[str, Any]:
    """The merged mapping of a run that can begin. Raises ParamsError naming each wrong key and the fix, StageError for a start."""
    values = merged(root, preset, overrides, data)
    params = parse(values)
    check_startable(params)
    check_starts(params, root)
    return values


def assignments(values: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What `--set` would have to say, each `key.path=value`, so that a mapping has every value of another one."""
    found = []
    for key, value in wanted.items():
        own = values.get(key)
        if own and isinstance(own, dict) and isinstance(value, dict) and not any("." in name or "=" in name for name in value):
            found += assignments(own, value, f"{prefix}{key}.")
        elif own != value:
            found.append(f"{prefix}{key}={json.dumps(value)}")
    return found


def check_startable(params: Params) -> None:
    """Raises ParamsError where a stage would learn pictures from nothing that it cannot learn them from."""
    try:
        check_trainable(params, architecture(params.model, params.data.vocabulary_size))
    except ConfigError as error:
        raise ParamsError(f"model: {error}") from None


def as_yaml(values: dict[str, Any]) -> str:
    """The text of a run's params.yaml. Floats keep a point, so that every YAML reader takes them for numbers."""
    return yaml.safe_dump(values, sort_keys=False)


def _check_model(params: Params) -> None:
    """Raises ParamsError for a model that cannot be built or a row too long for it, which a stage would find only when it starts."""
    try:
        config = architecture(params.model, params.data.vocabulary_size)
    except ConfigError as error:
        raise ParamsError(f"model: {error}") from None
    limit = config.shape.max_row_tokens
    for stage in params.training_stages:
        key = params.training_key(stage)
        if (asked := params.training(stage).row_tokens) > limit:
            raise ParamsError(f"{key}.row_tokens is {asked}, preset {params.model.preset} has {limit} positions; set it to at most {limit}")
        try:
            stage_architecture(params, stage, config)
        except ConfigError as error:
            raise ParamsError(f"{key}.image_px: {error}") from None


def _overlay(root: Path, preset: str, after: tuple[str, ...] = ()) -> Any:
    """An overlay over the one that it names as `base`, if it does."""
    file = root / "params" / f"{preset}.yaml"
    if not file.is_file() or "/" in preset:
        known = ", ".join(sorted(path.stem for path in (root / "params").glob("*.yaml"))) or "none"
        raise ParamsError(f"--preset {preset}: there is no params/{preset}.yaml; known presets: {known}")
    values = read_mapping(file)
    if not isinstance(values, dict) or BASE not in values:
        return values
    base = values.pop(BASE)
    if not isinstance(base, str) or base in (*after, preset):
        raise ParamsError(f"params/{preset}.yaml: {BASE} is {base!r}; name another overlay that does not build on this one")
    return merge(_overlay(root, base, (*after, preset)), values)

"""Writes the page that is made from the source: docs/params.md. Run by `make docs`; a test fails when the page is out of date."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from components.params import TASKS, Params, load

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "params.md"
INTRODUCTION = """# Parameters

Every key of `params.yaml`, from the descriptions in `components/params.py`; `make docs` writes this page. A named overlay
`params/NAME.yaml` holds what differs: `mmfs run --preset NAME`. Single values: `mmfs run --set pretrain.steps=100`. An unknown or
impossible value stops the run before any work, with the key and the fix. Addresses and secrets are no parameters but environment
variables: `components/settings.py`.

`finetune` and `gate` hold the same keys for each task (vqa, grounding, segmentation, story); the values shown are those of `vqa`.

| key | value | meaning |
| --- | --- | --- |
"""


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The page as Markdown."""
    rows = [f"| `{key}` | {_shown(value)} | {_cell(meaning)} |" for key, value, meaning in keys(Params, load(ROOT / "params.yaml"))]
    return INTRODUCTION + "\n".join(rows) + "\n"


def keys(section: type[BaseModel], values: BaseModel | None, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """(key, laptop value, meaning) of every leaf; sections that repeat per task appear once, as `TASK`."""
    per_task = set(section.model_fields) == set(TASKS)
    for name, field in section.model_fields.items():
        if per_task and name != TASKS[0]:
            continue
        key = f"{prefix}{'TASK' if per_task else name}"
        value = getattr(values, name) if values else field.default
        if inner := _model(field.annotation):
            yield from keys(inner, value, f"{key}.")
            continue
        yield key, value, field.description or ""
        for item in filter(None, map(_model, get_args(field.annotation))):
            yield from keys(item, None, f"{key}[].")


def _model(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _shown(value: Any) -> str:
    if isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        return f"{len(value)} entries"
    if value is None or repr(value) == "PydanticUndefined" or value in ((), {}):
        return "–"
    if isinstance(value, dict):
        return ", ".join(f"{name} {number:g}" if isinstance(number, int | float) else f"{name} {number}" for name, number in value.items())
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()

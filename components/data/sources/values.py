"""Values of a record whose types nobody has promised."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from components.data.documents import DocumentError, Fact, Facts

MAX_FACT_LENGTH = 8192
"""Signs of a fact that is a text; the longest real ones are addresses."""
_MAX_INT = 2**63


def text_of(values: Mapping[str, Any], name: str) -> str:
    """A text that says something. Raises DocumentError where it is absent, no text, blank or no Unicode."""
    text = optional_text(values, name)
    if not text.strip():
        raise DocumentError(f"{name} is {'empty' if name in values else 'absent'}")
    return text


def optional_text(values: Mapping[str, Any], name: str) -> str:
    """A text, empty where it is absent or null. Raises DocumentError for anything else."""
    value = values.get(name)
    return "" if value is None else checked_text(value, name)


def checked_text(value: Any, name: str) -> str:
    """The value, if it is a text that can be stored. Raises DocumentError, also for half of a surrogate pair."""
    if not isinstance(value, str):
        raise DocumentError(f"{name} must be a text, not {kind_of(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise DocumentError(f"{name} is no Unicode: it has half of a surrogate pair") from None
    return value


def list_of(values: Mapping[str, Any], name: str) -> list[Any]:
    """A list. Raises DocumentError where it is absent or something else."""
    value = values.get(name)
    if not isinstance(value, list):
        raise DocumentError(f"{name} must be a list, not {kind_of(value)}" if name in values else f"{name} is absent")
    return value


def object_of(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """An object, empty where it is absent or null. Raises DocumentError for something else."""
    value = values.get(name)
    if value is not None and not isinstance(value, dict):
        raise DocumentError(f"{name} must be an object, not {kind_of(value)}")
    return value or {}


def number_of(value: Any, name: str) -> float:
    """A finite number. Raises DocumentError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DocumentError(f"{name} must be a number, not {kind_of(value)}")
    if not math.isfinite(value) or abs(value) >= _MAX_INT:
        raise DocumentError(f"{name} is {value if isinstance(value, float) else 'beyond 64 bits'}")
    return value


def facts_of(stated: Iterable[tuple[str, Any]], numbers: Iterable[str] = ("similarity", "aesthetic", "width", "height")) -> Facts:
    """What is stated, null left out. Raises DocumentError naming what is no fact; those named in `numbers` must be finite numbers."""
    return {name: _fact(name, value, name in numbers) for name, value in stated if value is not None}


def first_of(values: Mapping[str, Any], names: str) -> Any:
    """Of columns that may bear a value, separated by commas, the first that is not null; None where none is."""
    return next((value for name in names.split(",") if name and (value := values.get(name)) is not None), None)


def _fact(name: str, value: Any, is_number: bool) -> Fact:
    if isinstance(value, bool) and not is_number:
        return value
    if is_number or isinstance(value, int | float):
        return number_of(value, name)
    if len(text := checked_text(value, name)) > MAX_FACT_LENGTH:
        raise DocumentError(f"{name} has {len(text)} signs, more than {MAX_FACT_LENGTH}")
    return text


def kind_of(value: Any) -> str:
    """What a reader of JSON calls such a value."""
    names = {
        type(None): "null",
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)

"""What task sets ask of a record's values: ids, numbers, answers; what it lacks or has in another type is named in a DocumentError."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from components.data.documents import DocumentError
from components.data.sources.values import checked_text, kind_of, list_of, text_of

_SHOWN = 60
_MAX_ID = 1000


def record(value: Any, what: str = "the record") -> Mapping[str, Any]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise DocumentError(f"{what} must be an object, not {kind_of(value)}")
    return value


def text(values: Mapping[str, Any], name: str) -> str:
    """A text that says something, without the white space around it."""
    return text_of(values, name).strip()


def text_or_number(values: Mapping[str, Any], name: str) -> str:
    """`text` that may have been written as a number, as answers of charts are."""
    value = values.get(name)
    return str(value) if _is_number(value) else text(values, name)


def texts(values: Mapping[str, Any], name: str) -> list[str]:
    """A list of texts, of which one at least is not blank."""
    found = [checked_text(value, f"{name}[{number}]").strip() for number, value in enumerate(list_of(values, name))]
    if not any(found):
        raise DocumentError(f"{name} has nothing but blanks" if found else f"{name} is empty")
    return found


def identifier(values: Mapping[str, Any], name: str) -> str:
    """What identifies something: a whole number or a short text, as a text."""
    value = values.get(name)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**_SHOWN:
        return str(value)
    if len(found := text(values, name)) > _MAX_ID:
        raise DocumentError(f"{name} has {len(found)} characters, which is no identifier")
    return found


def whole(values: Mapping[str, Any], name: str, first: int, last: int) -> int:
    """A whole number between two, both included. It may be written as a text of digits."""
    value = values.get(name)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not first <= value <= last:
        raise DocumentError(f"{name} must be a whole number from {first} to {last}, not {shown(value)}")
    return value


def numbers(values: Mapping[str, Any], name: str, count: int) -> list[float]:
    """So many finite numbers."""
    found = list_of(values, name)
    if len(found) != count or not all(_is_number(value) for value in found):
        raise DocumentError(f"{name} must be {count} finite numbers, not {shown(found)}")
    return found


def stated(values: Any, *names: str) -> dict[str, str]:
    """Those of these fields that the record states as short texts; a set may leave them out."""
    return {
        name: values[name] for name in names if isinstance(values.get(name), str) and values[name].isprintable() and len(values[name]) < 200
    }


def commonest(answers: Sequence[str]) -> str:
    """The answer that most gave, of equally common ones the first; blanks do not count."""
    given = [answer for answer in answers if answer]
    return max(given, key=given.count)


def shown(value: Any) -> str:
    """A value for a message, cut."""
    try:
        whole_text = ascii(value[: 2 * _SHOWN] if isinstance(value, str) else value)
    except (RecursionError, ValueError):  # nested beyond measure, or a number of thousands of digits
        return kind_of(value)
    return whole_text if len(whole_text) <= _SHOWN else f"{whole_text[:_SHOWN]}..."


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False

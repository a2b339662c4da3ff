"""Damage as disks, networks, writers of other languages and attackers do it to files: drawn from a seeded generator."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence

INTERESTING = (
    b"\x00", b"\xff\xfe", b"\r\n", b"\n", b"'", b'"', b"\\", b"{", b"[" * 2000, b"null", b"NaN", b"1e999", b"-1", b"true", b"../",
    b"/etc/passwd", b"\xed\xa0\x80", b"\\ud800", b"%PDF", b"PK\x03\x04", b"\x1f\x8b\x08", b"PAR1", b"<!--",
    b"<img src=", b"\xf4\x90\x80\x80", b"A" * 5000,
    b"99999999999999999999", b"0" * 40,
)  # fmt: skip
WRONG: tuple[object, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    10**30,
    "",
    "x",
    "../../x",
    "a" * 3000,
    [],
    {},
    [None],
    [[]],
    {"a": 1},
    "\ud800",
    "\x00",
)
"""Values of types and sizes that a field does not expect."""


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one to four wounds. Whole lines are never taken out cleanly: nobody could notice that."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(_WOUNDS)(data, rng)
    return data


def _flip(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return data
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]


def _cut_short(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + (b"?" if b"\n" in data[max(0, place - 1) : place + 1] else b"")


def _insert(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.choice(INTERESTING) + data[place:]


def _overwrite(data: bytes, rng: random.Random) -> bytes:
    piece = rng.choice(INTERESTING)
    place = rng.randrange(len(data) + 1)
    return data[:place] + piece + data[place + len(piece) :]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:end] + data[start : min(end, start + 4096)] * rng.randrange(1, 4) + data[end:]


def _wrong_value(data: bytes, rng: random.Random) -> bytes:
    """A value of a JSON text, or of one of its lines, replaced by another type."""
    lines = data.split(b"\n")
    number = rng.randrange(len(lines))
    whole = _replaced(data, rng)
    if whole is not None:
        return whole
    line = _replaced(lines[number], rng)
    return _flip(data, rng) if line is None else b"\n".join([*lines[:number], line, *lines[number + 1 :]])


def _replaced(text: bytes, rng: random.Random) -> bytes | None:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    places: list[tuple[dict[object, object] | list[object], object]] = []

    def collect(value: object) -> None:
        if isinstance(value, dict | list):
            for key in value if isinstance(value, dict) else range(len(value)):
                places.append((value, key))
                collect(value[key])  # type: ignore[index]

    collect(values)
    if not places:
        return json.dumps(rng.choice(WRONG)).encode()
    holder, key = rng.choice(places)
    holder[key] = rng.choice(WRONG)  # type: ignore[index]
    return json.dumps(values).encode()


_WOUNDS: Sequence[Callable[[bytes, random.Random], bytes]] = (
    _flip,
    _flip,
    _cut_short,
    _insert,
    _overwrite,
    _repeat,
    _wrong_value,
    _wrong_value,
)

"""Interleaving scored without a judge: where a model put its pictures and where it stopped, against the reference sequence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

ItemType = Literal["text", "image"]
_STATED = re.compile(r"\b((?:north|south)(?:west|east)|center) an? \w+ (\d)")


def merged(items: Sequence[ItemType]) -> list[ItemType]:
    """Neighbouring texts count as one: how a text is cut into items is no decision of the model."""
    return [item for number, item in enumerate(items) if item == "image" or number == 0 or items[number - 1] == "image"]


def places_agree(generated: Sequence[ItemType], reference: Sequence[ItemType]) -> list[bool]:
    """For each step of the reference, whether the model did the same there; what comes after is `stops_agree`'s question."""
    ours, wanted = merged(generated), merged(reference)
    return [step < len(ours) and ours[step] == item for step, item in enumerate(wanted)]


def stops_agree(generated: Sequence[ItemType], reference: Sequence[ItemType], ended: bool) -> bool:
    """Whether the model ended the document itself (`ended`: no limit did), after as many pictures as the reference and as it ends."""
    ours, wanted = merged(generated), merged(reference)
    return ended and ours.count("image") == wanted.count("image") and ours[-1:] == wanted[-1:]


def stated_digits(text: str) -> dict[str, int]:
    """What a sentence of the built-in corpus says is where, {place: digit}; for a place named twice the last word counts."""
    return {place: int(digit) for place, digit in _STATED.findall(text)}


def texts_before_pictures(items: Sequence[tuple[ItemType, str]]) -> list[str]:
    """For each picture of a document, given as (type, text) in order, the text since the picture before it."""
    texts, since = [], ""
    for kind, text in items:
        if kind == "image":
            texts.append(since)
            since = ""
        else:
            since += text
    return texts

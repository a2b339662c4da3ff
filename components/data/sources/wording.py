"""The words of the built-in corpus."""

from __future__ import annotations

from collections.abc import Sequence

from components.data.sources.ink import Figure

CORNERS = ("top left", "top right", "bottom left", "bottom right")
ORDINALS = ("first", "second", "third")


def article(colour: str) -> str:
    """The colour with its indefinite article."""
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour}"


def phrase(figure: Figure) -> str:
    """For example `a red 3`."""
    return f"{article(figure.colour)} {figure.digit}"


def sentence(figures: Sequence[Figure]) -> str:
    """For example `a red 3 at the top left and a blue 7 at the bottom right .`"""
    return " and ".join(f"{phrase(figure)} at the {figure.place}" for figure in figures) + " ."

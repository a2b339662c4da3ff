"""The words of the built-in corpus."""

from __future__ import annotations

from collections.abc import Sequence

from components.data.sources.ink import Figure

CORNERS = ("northwest", "northeast", "southwest", "southeast")
ORDINALS = ("first", "second", "third")


def article(colour: str) -> str:
    """The colour with its indefinite article."""
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour}"


def phrase(figure: Figure) -> str:
    """For example `a red 3`."""
    return f"{article(figure.colour)} {figure.digit}"


def sentence(figures: Sequence[Figure]) -> str:
    """For example `northwest a red 3, southeast a blue 7.`"""
    return ", ".join(f"{figure.place} {phrase(figure)}" for figure in figures) + "."

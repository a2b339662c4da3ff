"""What the pictures of a document are made from in training, drawn for each document and epoch (illume_x.md 3.1 and 3.6)."""

from __future__ import annotations

from typing import Literal

from components.data.keyed import generator
from components.objective_params import ConditionParams

Mode = Literal["keep", "drop_text", "drop_both"]
"""Texts and earlier pictures; earlier pictures alone; nothing. The paper has no mode that drops pictures alone."""


def mode_of(params: ConditionParams, seed: int, epoch: int, document: str) -> Mode:
    """The mode of a document in an epoch."""
    if not params.drawn:
        return "keep"
    drawn = generator(seed, epoch, document, 0, "mode").random()
    if drawn < params.drop_both:
        return "drop_both"
    return "drop_text" if drawn < params.drop_both + params.drop_text else "keep"

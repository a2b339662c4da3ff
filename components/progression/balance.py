"""The weight of the image loss that keeps the two losses at a ratio. Our reading: neither paper prints a rule for lambda."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from components.objective_params import BalanceParams

_VERSION = 1


@dataclass(frozen=True)
class Levels:
    """Running means of the two losses, over the steps that had some of each."""

    text: float = 0.0
    image: float = 0.0
    text_steps: int = 0
    image_steps: int = 0


def follow(mean: float, steps: int, loss: float, decay: float) -> tuple[float, int]:
    """An exponential mean without the pull of its start, after one loss more: the first is taken as it is."""
    if not math.isfinite(loss):
        return mean, steps
    keep = min(decay, steps / (steps + 1))
    return keep * mean + (1 - keep) * loss, steps + 1


def weight(levels: Levels, nominal: float, params: BalanceParams) -> float:
    """Lambda: what makes weight x image loss `ratio` times the text loss, at most `bound` times above or below the nominal one."""
    if params.mode == "none" or not (levels.text_steps and levels.image_steps):
        return nominal
    lowest, highest = nominal / params.bound, nominal * params.bound
    if levels.image <= 0:
        return highest
    return min(max(params.ratio * levels.text / levels.image, lowest), highest)


class Balance:
    """Lambda step by step, of the losses of the steps before; its memory is part of a checkpoint."""

    def __init__(self, nominal: float, params: BalanceParams, micro_batches: int = 1) -> None:
        """`micro_batches` make a step."""
        self._nominal, self._params, self._micro_batches = nominal, params, micro_batches
        self._levels = Levels()
        self._text = self._image = 0.0
        self._added = 0
        self._used: list[float] = []

    @property
    def image_weight(self) -> float:
        """Lambda of the coming step."""
        return weight(self._levels, self._nominal, self._params)

    def each_step(self, step: int) -> dict[str, list[float]]:
        """What is logged after a step: the lambda that it and those since the last time had."""
        used, self._used = self._used, []
        return {"image_loss_weight": used}

    def add(self, text: float, image: float, texts: float, images: float) -> None:
        """What a micro-batch adds to the losses of its step over all ranks, and how much of each the whole step trains on.

        After the last of a step its losses join the running means; one that trained on nothing of a kind says nothing about it.
        """
        self._text, self._image, self._added = self._text + text, self._image + image, self._added + 1
        if self._added < self._micro_batches:
            return
        self._used.append(self.image_weight)
        seen, decay = self._levels, self._params.decay
        of_text = follow(seen.text, seen.text_steps, self._text, decay) if texts else (seen.text, seen.text_steps)
        of_image = follow(seen.image, seen.image_steps, self._image, decay) if images else (seen.image, seen.image_steps)
        self._levels = Levels(of_text[0], of_image[0], of_text[1], of_image[1])
        self._text = self._image = 0.0
        self._added = 0

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps; it is written between steps."""
        return {"version": _VERSION, "used": list(self._used), **asdict(self._levels)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`. Raises ValueError for what is none of this version."""
        known = set(asdict(Levels()))
        numbers = all(isinstance(state.get(name), int | float) and math.isfinite(state[name]) for name in known)
        if state.get("version") != _VERSION or set(state) != known | {"version", "used"} or not numbers:
            raise ValueError(f"the checkpoint's balance of the losses is {dict(state)}; resume from an earlier checkpoint")
        self._levels, self._used = Levels(**{name: state[name] for name in known}), list(state["used"])

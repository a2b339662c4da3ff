"""Means of the losses, the speed and where the time went between two logged steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from components.training.objective import Sums
from components.training.telemetry.sources import COLUMNS, means_by_name
from components.training.telemetry.stopwatch import Stopwatch, split


class Meter:
    """Adds up micro-batches; all of it is part of a checkpoint, so that a resumed curve is the same curve, and no lost step counts."""

    def __init__(self, text_weight: float, image_weight: float, watch: Stopwatch | None = None, names: Sequence[str] = ()) -> None:
        """`watch` is told the laps by others; `names` are those of the mixture, in the order of `Sums.by_name`."""
        self._text_weight = text_weight
        self._image_weight = image_weight
        self._watch = watch or Stopwatch()
        self._names = tuple(names)
        self._by_name: list[float] = []
        self._norms: list[float] = []
        self.load({})

    def add(self, sums: Sums) -> None:
        """One micro-batch, summed over the ranks."""
        self._text += sums.text_mean
        self._image += sums.image_mean
        self._tokens += sums.tokens
        self._images += sums.images
        self._by_name = [one + other for one, other in zip(self._by_name, sums.by_name or self._by_name, strict=True)]
        self._micro_batches += 1

    def note(self, norm: float) -> None:
        """The global gradient norm of a step."""
        self._norms.append(norm)

    @property
    def norms(self) -> list[float]:
        """Global gradient norms of the steps since the last reading."""
        return list(self._norms)

    def read(self, accumulate: int) -> dict[str, float]:
        """Mean losses per optimizer step, losses by name, speed and time by lap since the last reading; then start anew.

        Tokens and images a second are of the whole time, what happens between steps included.
        """
        steps = self._micro_batches / accumulate
        seconds = self._watch.seconds()
        elapsed = max(sum(seconds.values()), 1e-9)
        text, image = self._text / steps, self._image / steps
        values = {
            "loss": self._text_weight * text + self._image_weight * image,
            "text_loss": text,
            "image_loss": image,
            "tokens_per_second": self._tokens / elapsed,
            "images_per_second": self._images / elapsed,
            **split(seconds, steps),
            **means_by_name(self._by_name, self._names),
        }
        self.load({})
        return values

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        sums = {"text": self._text, "image": self._image, "tokens": self._tokens, "images": self._images}
        lists = {"by_name": dict(self._pairs()), "norms": self.norms, "seconds": self._watch.seconds()}
        return {**sums, "micro_batches": self._micro_batches, **lists}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`, or from nothing."""
        self._text, self._image = state.get("text", 0.0), state.get("image", 0.0)
        self._tokens, self._images = state.get("tokens", 0.0), state.get("images", 0.0)
        self._micro_batches = int(state.get("micro_batches", 0))
        known = state.get("by_name", {})
        self._by_name = [value for name in self._names for value in known.get(name, [0.0] * COLUMNS)]
        self._norms = list(state.get("norms", ()))
        self._watch.load(state.get("seconds", {}))

    def _pairs(self) -> list[tuple[str, list[float]]]:
        return [(name, self._by_name[number * COLUMNS : (number + 1) * COLUMNS]) for number, name in enumerate(self._names)]

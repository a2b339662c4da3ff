"""Means of the losses and the speed between two logged steps."""

from __future__ import annotations

import time
from collections.abc import Mapping

from components.training.objective import Sums


class Meter:
    """Adds up micro-batches; all but the clock is part of a checkpoint, so that a resumed curve is the same curve."""

    def __init__(self, text_weight: float, image_weight: float) -> None:
        self._text_weight = text_weight
        self._image_weight = image_weight
        self._text = self._image = self._tokens = self._images = 0.0
        self._micro_batches = 0
        self._since = time.monotonic()

    def add(self, sums: Sums) -> None:
        """One micro-batch, summed over the ranks."""
        self._text += sums.text_mean
        self._image += sums.image_mean
        self._tokens += sums.tokens
        self._images += sums.images
        self._micro_batches += 1

    def read(self, accumulate: int) -> dict[str, float]:
        """Mean losses per optimizer step, and tokens and images a second, since the last reading; then start anew."""
        steps = self._micro_batches / accumulate
        elapsed = max(time.monotonic() - self._since, 1e-9)
        text, image = self._text / steps, self._image / steps
        values = {
            "loss": self._text_weight * text + self._image_weight * image,
            "text_loss": text,
            "image_loss": image,
            "tokens_per_second": self._tokens / elapsed,
            "images_per_second": self._images / elapsed,
        }
        self.load({})
        return values

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        sums = {"text": self._text, "image": self._image, "tokens": self._tokens, "images": self._images}
        return {**sums, "micro_batches": self._micro_batches}

    def load(self, state: Mapping[str, float]) -> None:
        """Go on from `state()`, or from nothing; the clock starts now."""
        self._text, self._image = state.get("text", 0.0), state.get("image", 0.0)
        self._tokens, self._images = state.get("tokens", 0.0), state.get("images", 0.0)
        self._micro_batches = int(state.get("micro_batches", 0))
        self._since = time.monotonic()

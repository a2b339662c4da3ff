"""What a model is asked and what it answers: ordered texts and pictures, in the columns of its MLflow signature and as people see them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PLACEHOLDER = "{image}"
MAX_PICTURE_PIXELS = 50_000_000
Item = str | bytes
"""A text, or the bytes of a PNG or JPEG."""


class PromptError(ValueError):
    """A prompt cannot be used; the message says what to change."""


@dataclass(frozen=True)
class Options:
    """How an answer is generated. `steps` are denoising steps, `guidance` is the classifier-free scale, `image_guidance` that of
    the pictures given. Tokens are the likeliest (temperature 0), drawn (`temperature`, `top_p`) or searched for by `beams`; see
    model.choosing.Choosing."""

    seed: int = 0
    max_new_tokens: int = 96
    steps: int = 20
    guidance: float = 2.0
    image_guidance: float = 1.0
    temperature: float = 0.0
    top_p: float = 1.0
    beams: int = 1
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0
    min_new_tokens: int = 0


@dataclass(frozen=True)
class Prompt:
    """The items before the answer."""

    items: tuple[Item, ...]

    @classmethod
    def of(cls, text: str, pictures: Sequence[bytes] = ()) -> Prompt:
        """Put each picture where the text says `{image}`, in the order given; those that the text does not claim come first.

        Raises PromptError for an empty prompt or too few pictures.
        """
        texts = text.split(PLACEHOLDER)
        unclaimed = len(pictures) - (len(texts) - 1)
        if unclaimed < 0:
            raise PromptError(f"the text asks for {len(texts) - 1} pictures, {len(pictures)} were given; give one for each {PLACEHOLDER}")
        items: list[Item] = [*pictures[:unclaimed], texts[0].strip()]
        for picture, part in zip(pictures[unclaimed:], texts[1:], strict=True):
            items += [picture, part.strip()]
        kept = tuple(item for item in items if item)
        if not kept:
            raise PromptError("the prompt is empty; give a text, a picture or both")
        return cls(kept)

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Prompt:
        """From a row of a request: `prompt`, and `images` as a JSON list of base64. Raises PromptError."""
        encoded = row.get("images")
        try:
            pictures = [base64.b64decode(one, validate=True) for one in json.loads(encoded)] if isinstance(encoded, str) and encoded else []
        except (ValueError, TypeError) as error:
            raise PromptError(f"`images` must be a JSON list of base64 pictures: {error}") from None
        return cls.of(str(row.get("prompt") or ""), pictures)

    def row(self) -> dict[str, str]:
        """The row of a request."""
        text = " ".join(PLACEHOLDER if isinstance(item, bytes) else item for item in self.items)
        return {"prompt": text, "images": json.dumps([base64.b64encode(item).decode() for item in self.items if isinstance(item, bytes)])}


def dump(items: Sequence[Item]) -> str:
    """The answer column: a JSON list of `{"type": "text", "text"}` and `{"type": "image", "png"}` (base64)."""
    return json.dumps(list(_as_json(items)))


def load(text: str) -> tuple[Item, ...]:
    """The reverse of `dump`."""
    return tuple(one["text"] if one["type"] == "text" else base64.b64decode(one["png"]) for one in json.loads(text))


def _as_json(items: Sequence[Item]) -> Iterator[dict[str, str]]:
    for item in items:
        if isinstance(item, str):
            yield {"type": "text", "text": item}
        else:
            yield {"type": "image", "png": base64.b64encode(item).decode()}

"""Prompts: what a model is given before it goes on by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from components.data.documents import LoadedDocument, TextItem
from components.data.tokenizer import Tokenizer
from components.data.transforms import as_float, square
from model.config import ModelShape


def prompt_parts(loaded: LoadedDocument, items: int | None = None) -> list[str | np.ndarray]:
    """Texts and pictures (uint8 [height, width, 3]) of the first `items` items; `prompt_items` where absent."""
    document = loaded.document
    pictures = iter(loaded.pictures)
    shown = document.items[: document.prompt_items if items is None else items]
    return [item.text if isinstance(item, TextItem) else next(pictures) for item in shown]


def encode_prompt(parts: Sequence[str | np.ndarray], tokenizer: Tokenizer, shape: ModelShape) -> list[list[int] | torch.Tensor]:
    """`<s>`, then ids of each text and float32 [3, px, px] in 0..1 of each picture, at encoder size.

    BoI and placeholders are not among the ids: whoever lays out the prompt puts them where a picture stands.
    """
    prompt: list[list[int] | torch.Tensor] = [[tokenizer.bos]]
    for part in parts:
        prompt.append(
            tokenizer.encode(part) if isinstance(part, str) else torch.from_numpy(as_float(square(part, shape.image_px)[None])[0])
        )
    return prompt

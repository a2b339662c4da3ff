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


def encode_prompt(parts: Sequence[str | np.ndarray], tokenizer: Tokenizer, shape: ModelShape) -> tuple[tuple[int, ...] | torch.Tensor, ...]:
    """The `items` of a generation prompt: ids of each text (no BOS), float32 [3, px, px] in 0..1 of each picture at encoder size."""
    return tuple(tuple(tokenizer.encode(part)) if isinstance(part, str) else _picture(part, shape) for part in parts)


def _picture(picture: np.ndarray, shape: ModelShape) -> torch.Tensor:
    return torch.from_numpy(as_float(square(picture, shape.image_px)[None])[0])

"""Prompts: texts and pictures in order, checked and read into a decoding state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

from model.batch import InputError, picture_fault
from model.config import ModelConfig
from model.decoding import DecodingState

Items = tuple[tuple[int, ...] | Tensor, ...]
"""Texts as token ids and pictures [3, px, px] in 0..1 at encoder size, in order."""


@dataclass(frozen=True)
class Prompt:
    """What is to be continued; BOS is added where it is missing. `id` keys every random choice."""

    id: str
    items: Items


def read_prompts(state: DecodingState, prompts: Sequence[Prompt]) -> None:
    """Let each row of the state go on with a prompt, which may be empty. Pictures are encoded once, all in one call.

    Raises InputError for a row that gets too long or has too many pictures, for a picture of the wrong size or with values outside 0..1,
    and for token ids outside the vocabulary.
    """
    model = state.model
    config, tokens, shape = model.config, model.config.tokens, model.config.shape
    rows: list[list[int]] = []
    pictures: list[Tensor] = []
    for prompt, length, seen in zip(prompts, state.length.tolist(), state.sees.sum(1).tolist(), strict=True):
        ids: list[int] = []
        for item in prompt.items:
            if isinstance(item, Tensor):
                pictures.append(_checked_picture(item, prompt.id, shape.image_px))
                ids += [tokens.boi, *[tokens.image] * shape.num_visual_tokens]
            else:
                ids += check_ids(item, f"prompt {prompt.id!r}", config)
        if not length and ids[:1] != [tokens.bos]:
            ids.insert(0, tokens.bos)
        if length + len(ids) > shape.max_row_tokens:
            raise InputError(
                f"prompt {prompt.id!r} has {length + len(ids)} tokens; the model reads at most {shape.max_row_tokens}; "
                f"shorten it (a picture takes {shape.num_visual_tokens + 1})"
            )
        count = seen + sum(isinstance(item, Tensor) for item in prompt.items)
        if config.most_images is not None and count > config.most_images:
            raise InputError(
                f"prompt {prompt.id!r} has {count} pictures; the model's distance tables tell {config.most_images} apart; "
                "leave out the oldest, or use a model with visible_images: nearest and decoder_images: previous"
            )
        rows.append(ids)
    state.append(rows, model.visual_tokenizer(torch.stack(pictures).to(model.device)) if pictures else None)


def check_ids(ids: Sequence[int], name: str, config: ModelConfig) -> Sequence[int]:
    """The token ids of a text. Raises InputError for one that is no entry of the model's vocabulary."""
    for index in ids:
        if not isinstance(index, Integral):
            raise InputError(f"{name}: token id {index!r} is no integer; give the ids that the tokenizer made")
        if not 0 <= index < config.vocab_size:
            what = "begins or stands for a picture: give pictures as pictures" if index in (config.tokens.boi, config.tokens.image) else ""
            raise InputError(
                f"{name}: token id {index} is outside the model's vocabulary of {config.vocab_size}"
                + (f" and {what}" if what else "; encode with the tokenizer that the model was trained with")
            )
    return ids


def _checked_picture(picture: Tensor, name: str, px: int) -> Tensor:
    if tuple(picture.shape) != (3, px, px):
        raise InputError(f"prompt {name!r}: a picture is {tuple(picture.shape)}, expected {(3, px, px)}")
    if fault := picture_fault(picture):
        raise InputError(f"prompt {name!r}: a picture {fault}")
    return picture

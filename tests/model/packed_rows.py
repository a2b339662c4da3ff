"""Packed rows for model tests, written as lists of documents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from model.batch import InterleavedBatch
from model.config import ModelConfig
from model.mm_interleaved import MMInterleaved

VOCABULARY = 40
Document = list[int | str]
MakeBatch = Callable[..., InterleavedBatch]


def pack(config: ModelConfig, rows: list[list[Document]], columns: int, seed: int) -> InterleavedBatch:
    """Rows of documents; a document is token ids and "image"."""
    tokens, visual = config.tokens, config.visual_resampler.queries
    ids = torch.full((len(rows), columns), tokens.pad)
    documents = torch.zeros_like(ids)
    trained = torch.zeros_like(ids, dtype=torch.bool)
    places: list[tuple[int, int]] = []
    for row, packed in enumerate(rows):
        column = 0
        for number, document in enumerate(packed, 1):
            start = column
            ids[row, column] = tokens.bos
            column += 1
            for item in document:
                if item == "image":
                    places.append((row, column))
                    ids[row, column] = tokens.boi
                    trained[row, column] = True
                    ids[row, column + 1 : column + 1 + visual] = tokens.image
                    column += 1 + visual
                else:
                    ids[row, column] = int(item)
                    trained[row, column] = True
                    column += 1
            ids[row, column] = tokens.eos
            trained[row, column] = True
            column += 1
            documents[row, start:column] = number
    count = len(places)
    where = torch.tensor(places, dtype=torch.int64).reshape(count, 2)
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, config.vision.image_px, config.vision.image_px, generator=generator)
    return InterleavedBatch(
        text_ids=ids,
        attention_mask=documents > 0,
        document_ids=documents,
        targets_mask=trained,
        images=images,
        target_images=images,
        image_row=where[:, 0],
        image_column=where[:, 1],
        image_loss_mask=torch.ones(count, dtype=torch.bool),
        drop_condition=torch.zeros(count, dtype=torch.bool),
        timesteps_u=torch.rand(count, generator=generator),
        noise=torch.randn(count, *config.shape.latent_shape, generator=generator),
    )


def picture(seed: int, config: ModelConfig) -> Tensor:
    """A picture as the encoder reads it, [3, px, px] in 0..1."""
    return torch.rand(3, config.vision.image_px, config.vision.image_px, generator=torch.Generator().manual_seed(seed))


def largest(tensor: Tensor) -> float:
    """Largest absolute value."""
    return tensor.abs().max().item()


def with_random_start(config: ModelConfig) -> ModelConfig:
    """The language model says many things: attention that starts by looking at what is alike says the same token for ever."""
    return replace(config, language=replace(config.language, start="random"))


@torch.no_grad()
def as_if_trained(model: MMInterleaved) -> MMInterleaved:
    """The model with sinks and output biases that are not zero, as in a new one: they are what a token gets that sees no picture."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith(("ignore_token", "output_proj.bias")):
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model

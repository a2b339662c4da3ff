"""Which tokens the release learns to say (mm_interleaved.md 1.5): the rule behind its -100 labels, for batches that it did not pack."""

from __future__ import annotations

import torch
from torch import Tensor

from model.config import TokenIds


def release_targets(
    text_ids: Tensor,
    attention_mask: Tensor,
    tokens: TokenIds,
    *,
    prompt: Tensor | None = None,
    only_after_image: Tensor | None = None,
) -> Tensor:
    """[B, L] bool for `InterleavedBatch.targets_mask`: True where a token is a trained target.

    text_ids [B, L] int64; attention_mask [B, L], 0 is padding. No targets are padding, placeholders, BOS, and a BoI right after BOS; so
    BoI after text is learned. `prompt` [B, L] bool: tokens of a prefix that is given. `only_after_image` [B] bool: rows of pair data
    (the release's laion_en and laion_coco) whose documents are learned from their first BoI on.
    """
    before = text_ids.roll(1, dims=1)
    before[:, 0] = tokens.pad
    bare_image = (text_ids == tokens.boi) & (before == tokens.bos)
    never = torch.tensor([tokens.pad, tokens.image, tokens.bos], device=text_ids.device)
    targets = attention_mask.bool() & ~torch.isin(text_ids, never) & ~bare_image
    if prompt is not None:
        targets &= ~prompt
    if only_after_image is not None:
        targets &= _after_image(text_ids, tokens) | ~only_after_image[:, None]
    return targets


def _after_image(text_ids: Tensor, tokens: TokenIds) -> Tensor:
    """True from the first BoI of each document on; a document begins at BOS, the first one of a row at its start."""
    column = torch.arange(text_ids.shape[1], device=text_ids.device).expand_as(text_ids)
    start = torch.where(text_ids == tokens.bos, column, 0).cummax(dim=1).values
    newest = torch.where(text_ids == tokens.boi, column, -1).cummax(dim=1).values
    return newest >= start

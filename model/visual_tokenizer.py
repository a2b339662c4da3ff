"""Images to visual tokens for the language model and a feature pyramid for MMFS."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.config import ResamplerConfig, VisionConfig
from model.positions import resize_table, sincos_2d
from model.protocols import ImageEncoder
from model.resampler import PerceiverResampler


class VisualFeatures(NamedTuple):
    """tokens [n, num_visual_tokens, language width]; maps: four [n, width, s, s], finest first, positions added.

    A tuple: what hooks into modules (ZeRO-3 is one) sees tensors in tuples alone.
    """

    tokens: Tensor
    maps: tuple[Tensor, ...]

    def chosen(self, images: Tensor) -> VisualFeatures:
        """The features of these images, [s] indices."""
        return VisualFeatures(self.tokens.index_select(0, images), tuple(each.index_select(0, images) for each in self.maps))

    def levels(self, sides: tuple[int, ...]) -> Tensor:
        """The maps with these sides as rows [n, cells, width], in the order given."""
        by_side = {each.shape[-1]: each for each in self.maps}
        return torch.cat([by_side[side].flatten(2).transpose(1, 2) for side in sides], dim=1)


class VisualTokenizer(nn.Module):
    """Encoder, perceiver resampler and projection (mm_interleaved.md 1.2).

    With `learned`, vectors that no picture changes stand in for the resampler's tokens: pictures are then seen through MMFS alone.
    """

    pos_embed: Tensor
    clip_mean: Tensor
    clip_std: Tensor

    def __init__(
        self, encoder: ImageEncoder, vision: VisionConfig, resampler: ResamplerConfig, language_width: int, *, learned: bool = False
    ) -> None:
        """`vision` says what the encoder reads and gives: sizes, class tokens, mean and deviation of its pixels."""
        super().__init__()
        self.encoder = encoder
        if learned:
            self.learned_tokens = nn.Parameter(torch.randn(resampler.queries, resampler.width))
        else:
            self.perceiver_resampler = PerceiverResampler(resampler)
            self.pos_proj = nn.Linear(vision.width, vision.width)
            self.pos_ln = nn.LayerNorm(vision.width, eps=1e-6)
            self.post_ln = nn.LayerNorm(vision.width, eps=1e-6)
        self.learned = learned
        self.proj = nn.Linear(resampler.width, language_width)
        table = torch.cat((torch.zeros(vision.class_tokens, vision.width), sincos_2d(vision.grid, vision.width)))
        self.register_buffer("pos_embed", table)
        self.class_tokens = vision.class_tokens
        self.register_buffer("clip_mean", torch.tensor(vision.mean).view(1, 3, 1, 1))
        self.register_buffer("clip_std", torch.tensor(vision.std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> VisualFeatures:
        """images [n, 3, px, px] in 0..1, in any precision; features are in that of the weights."""
        normal = (images.to(self.clip_mean.dtype) - self.clip_mean) / self.clip_std
        own = self.proj.weight.dtype  # an engine may shorten the weights and leave the buffers long
        hidden, maps = self.encoder(normal.to(own))
        if self.learned:
            tokens = self.learned_tokens.expand(len(images), -1, -1)
        else:
            tokens = self.perceiver_resampler(self.post_ln(self.pos_ln(self.pos_proj(hidden)) + self.pos_embed.to(own)))
        return VisualFeatures(self.proj(tokens), tuple(each + self._positions(each.shape[-1]).to(own) for each in maps))

    def _positions(self, side: int) -> Tensor:
        return resize_table(self.pos_embed[self.class_tokens :], side).T.unflatten(1, (side, side))

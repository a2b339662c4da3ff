"""Images to visual tokens for the language model and a feature pyramid for MMFS."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.clip_encoder import ClipEncoder
from model.config import ResamplerConfig, VisionConfig
from model.positions import resize_table, sincos_2d
from model.resampler import PerceiverResampler


@dataclass(frozen=True)
class VisualFeatures:
    """tokens [n, num_visual_tokens, language width]; maps: four [n, width, s, s], finest first, positions added."""

    tokens: Tensor
    maps: tuple[Tensor, ...]

    def levels(self, sides: tuple[int, ...]) -> Tensor:
        """The maps with these sides as rows [n, cells, width], in the order given."""
        by_side = {each.shape[-1]: each for each in self.maps}
        return torch.cat([by_side[side].flatten(2).transpose(1, 2) for side in sides], dim=1)


class VisualTokenizer(nn.Module):
    """Encoder, perceiver resampler and projection (mm_interleaved.md 1.2)."""

    pos_embed: Tensor
    clip_mean: Tensor
    clip_std: Tensor

    def __init__(self, vision: VisionConfig, resampler: ResamplerConfig, language_width: int) -> None:
        super().__init__()
        self.encoder = ClipEncoder(vision)
        self.perceiver_resampler = PerceiverResampler(resampler)
        self.pos_proj = nn.Linear(vision.width, vision.width)
        self.pos_ln = nn.LayerNorm(vision.width, eps=1e-6)
        self.post_ln = nn.LayerNorm(vision.width, eps=1e-6)
        self.proj = nn.Linear(resampler.width, language_width)
        table = torch.cat((torch.zeros(1, vision.width), sincos_2d(vision.grid, vision.width)))
        self.register_buffer("pos_embed", table)
        self.register_buffer("clip_mean", torch.tensor(vision.mean).view(1, 3, 1, 1))
        self.register_buffer("clip_std", torch.tensor(vision.std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> VisualFeatures:
        """images [n, 3, px, px] in 0..1."""
        hidden, maps = self.encoder((images - self.clip_mean) / self.clip_std)
        source = self.post_ln(self.pos_ln(self.pos_proj(hidden)) + self.pos_embed)
        tokens = self.proj(self.perceiver_resampler(source))
        return VisualFeatures(tokens, tuple(each + self._positions(each.shape[-1]) for each in maps))

    def _positions(self, side: int) -> Tensor:
        return resize_table(self.pos_embed[1:], side).T.unflatten(1, (side, side))

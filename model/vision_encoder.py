"""A ViT with adapter: last hidden state for the resampler and a four-level pyramid for MMFS."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig

from model.config import VisionConfig
from model.positions import cell_centres
from model.recompute import call
from model.vision_families import VISION_FAMILIES, VisionFamily
from model.vit_adapter import Interaction, SpatialPrior


class Layers(nn.Module):
    """Only there for the name `encoder.layers` of the public checkpoints."""

    def __init__(self, family: VisionFamily, settings: PreTrainedConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([family.layer(settings) for _ in range(settings.num_hidden_layers)])


class VisionModel(nn.Module):
    """The ViT's parts under their library's names and the adapter's beside them."""

    patch_centres: Tensor
    pyramid_centres: Tensor

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        family = VISION_FAMILIES[config.family]
        settings = family.settings(config)
        self.embeddings = family.embeddings(settings)
        # The spelling is that of the public checkpoints.
        self.pre_layrnorm = nn.LayerNorm(config.width, eps=config.layer_norm_eps) if family.norm_first else nn.Identity()
        self.encoder = Layers(family, settings)
        self.adapter_level_embed = nn.Parameter(torch.zeros(3, config.width))
        self.adapter_spm = SpatialPrior(config.stem, config.width, double=config.double_stem)
        last = config.interactions - 1
        self.adapter_interactions = nn.ModuleList([Interaction(config, last=index == last) for index in range(config.interactions)])
        self.adapter_up = nn.ConvTranspose2d(config.width, config.width, 2, 2)
        self.register_buffer("patch_centres", cell_centres(config.pyramid[2:3]), persistent=False)
        self.register_buffer("pyramid_centres", cell_centres(config.pyramid[1:]), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Normalised images [n, 3, px, px] to hidden [n, tokens, width] and four maps [n, width, s, s], finest first."""
        c1, pyramid = self._prior(images)
        hidden = self.pre_layrnorm(self.embeddings(images))
        own = self.config.class_tokens
        group = len(self.encoder.layers) // len(self.adapter_interactions)
        kept = []
        for index, interaction in enumerate(cast(Iterable[Interaction], self.adapter_interactions)):
            first, patches = hidden.split((own, hidden.shape[1] - own), dim=1)
            hidden = torch.cat((first, interaction.injector(patches, pyramid, self.patch_centres)), dim=1)
            for layer in self.encoder.layers[index * group : (index + 1) * group]:
                hidden = call(layer, hidden, None, recompute=self.recompute)
            pyramid = interaction.extract(pyramid, hidden[:, own:], self.pyramid_centres)
            kept.append(hidden[:, own:])
        return hidden, self._maps(c1, pyramid, kept)

    def _prior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The finest map and the three others as tokens with their level's embedding."""
        side = self.config.adapter_px
        if images.shape[-1] != side:
            images = F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)
        c1, *others = self.adapter_spm(images)
        tokens = [each.flatten(2).transpose(1, 2) + level for each, level in zip(others, self.adapter_level_embed, strict=True)]
        return c1, torch.cat(tokens, dim=1)

    def _maps(self, c1: Tensor, pyramid: Tensor, kept: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        sides = self.config.pyramid
        parts = pyramid.split([side * side for side in sides[1:]], dim=1)
        c2, c3, c4 = (_as_map(part, side) for part, side in zip(parts, sides[1:], strict=True))
        c1 = self.adapter_up(c2) + c1
        # With fewer than four interactions the later outputs serve several levels.
        x1, x2, x3, x4 = (
            _as_map(kept[(level + 1) * len(kept) // 4 - 1 if len(kept) >= 4 else level * len(kept) // 4], sides[2]) for level in range(4)
        )
        return c1 + _resize(x1, sides[0]), c2 + _resize(x2, sides[1]), c3 + x3, c4 + _resize(x4, sides[3])


class VisionEncoder(nn.Module):
    """An ImageEncoder of any family in model.vision_families; the wrapper that gives the state-dict prefix `encoder.vision_model`."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.vision_model = VisionModel(config)

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """See VisionModel."""
        return self.vision_model(images)

    def checkpoint_activations(self) -> None:
        """See ImageEncoder."""
        self.vision_model.recompute = True


def _as_map(tokens: Tensor, side: int) -> Tensor:
    return tokens.transpose(1, 2).unflatten(2, (side, side))


def _resize(maps: Tensor, side: int) -> Tensor:
    return F.interpolate(maps, size=(side, side), mode="bilinear", align_corners=False)

"""ViT-Adapter: a convolutional spatial prior exchanges features with a plain ViT and leaves a pyramid (mm_interleaved.md 1.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.deformable_attention import Path, deformable_attention
from model.config import VisionConfig


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of [n, C, h, w], computed in float32."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, maps: Tensor) -> Tensor:
        """Same shape and type."""
        last = maps.permute(0, 2, 3, 1).float()
        return F.layer_norm(last, last.shape[-1:], self.weight.float(), self.bias.float(), 1e-6).to(maps.dtype).permute(0, 3, 1, 2)


class DoubleConv2d(nn.Conv2d):
    """A convolution that computes float32 pictures in float64."""

    def forward(self, maps: Tensor) -> Tensor:
        """Same type as the input."""
        if maps.dtype != torch.float32:
            return super().forward(maps)
        bias = None if self.bias is None else self.bias.double()
        return self._conv_forward(maps.double(), self.weight.double(), bias).float()


class SpatialPrior(nn.Module):
    """Maps at strides 4, 8, 16, 32 of the adapter's picture, all at the ViT's width.

    Its norms over few channels amplify rounding a thousandfold; `double` keeps that of its convolutions out.
    """

    def __init__(self, stem: int, width: int, *, double: bool) -> None:
        super().__init__()
        conv = DoubleConv2d if double else nn.Conv2d

        def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
            return [conv(inputs, outputs, 3, stride=stride, padding=1, bias=False), ChannelNorm(outputs), nn.ReLU()]

        self.stem = nn.Sequential(*block(3, stem, 2), *block(stem, stem, 1), *block(stem, stem, 1), nn.MaxPool2d(3, stride=2, padding=1))
        self.conv2 = nn.Sequential(*block(stem, 2 * stem, 2))
        self.conv3 = nn.Sequential(*block(2 * stem, 4 * stem, 2))
        self.conv4 = nn.Sequential(*block(4 * stem, 4 * stem, 2))
        self.fc1 = conv(stem, width, 1)
        self.fc2 = conv(2 * stem, width, 1)
        self.fc3 = conv(4 * stem, width, 1)
        self.fc4 = conv(4 * stem, width, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """[n, 3, px, px] to four maps [n, width, s, s], finest first."""
        c1 = self.stem(images)
        c2 = self.conv2(c1)
        c3 = self.conv3(c2)
        c4 = self.conv4(c3)
        return self.fc1(c1), self.fc2(c2), self.fc3(c3), self.fc4(c4)


class DeformableAttention(nn.Module):
    """Deformable-DETR attention: offsets and weights per head, level and point; softmax over levels and points."""

    def __init__(
        self, width: int, heads: int, points: int, sides: Sequence[int], value_ratio: float, *, radial: bool, path: Path = "torch"
    ) -> None:
        super().__init__()
        inner = int(width * value_ratio)
        self.shape = (heads, len(sides), points)
        self.path = path
        self.level_shapes = tuple((side, side) for side in sides)
        self.sampling_offsets = nn.Linear(width, heads * len(sides) * points * 2)
        self.attention_weights = nn.Linear(width, heads * len(sides) * points)
        self.value_proj = nn.Linear(width, inner)
        self.output_proj = nn.Linear(inner, width)
        self.register_buffer("sides", torch.tensor(sides, dtype=torch.float32).view(1, 1, -1, 1, 1), persistent=False)
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        for layer in (self.sampling_offsets, self.attention_weights, self.value_proj, self.output_proj):
            nn.init.zeros_(layer.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
        if radial:
            self.sampling_offsets.bias.data.copy_(radial_offsets(heads, len(sides), points).flatten())

    def forward(self, query: Tensor, features: Tensor, reference: Tensor) -> Tensor:
        """query [n, Q, width], features [n, cells, width], reference [Q, 2]; returns [n, Q, width]."""
        images, queries, _ = query.shape
        heads, levels, points = self.shape
        value = self.value_proj(features).view(images, features.shape[1], heads, -1)
        offsets = self.sampling_offsets(query).view(images * queries, heads, levels, points, 2)
        weight = self.attention_weights(query).view(images * queries, heads, levels * points).softmax(-1)
        location = reference.repeat(images, 1)[:, None, None, None] + offsets / self.sides
        image = torch.arange(images, dtype=torch.int32, device=query.device).repeat_interleave(queries, output_size=images * queries)
        sampled = deformable_attention(value, self.level_shapes, location, weight.view(-1, heads, levels, points), image, path=self.path)
        return self.output_proj(sampled.view(images, queries, -1))


def _attention(config: VisionConfig, sides: Sequence[int]) -> DeformableAttention:
    """The attention of an injector or extractor over maps of these sides."""
    return DeformableAttention(
        config.width, config.heads, config.points, sides, config.value_ratio, radial=config.radial_offsets, path=config.path
    )


def radial_offsets(heads: int, levels: int, points: int) -> Tensor:
    """Deformable-DETR's start: each head looks in its own direction, its points ever further; [heads, levels, points, 2]."""
    angle = torch.arange(heads) * (2 * math.pi / heads)
    direction = torch.stack((angle.cos(), angle.sin()), -1)
    direction = direction / direction.abs().max(-1, keepdim=True).values
    steps = torch.arange(1, points + 1, dtype=torch.float32).view(1, 1, points, 1)
    return direction.view(heads, 1, 1, 2).expand(heads, levels, points, 2) * steps


class DepthwiseConv(nn.Module):
    """3x3 depth-wise convolution applied to each level's map on its own."""

    def __init__(self, width: int, sides: Sequence[int]) -> None:
        super().__init__()
        self.sides = tuple(sides)
        self.dwconv = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def forward(self, tokens: Tensor) -> Tensor:
        """[n, cells, width], levels one after the other; same shape."""
        parts = tokens.split([side * side for side in self.sides], dim=1)
        maps = [part.transpose(1, 2).unflatten(2, (side, side)) for part, side in zip(parts, self.sides, strict=True)]
        return torch.cat([self.dwconv(each).flatten(2).transpose(1, 2) for each in maps], dim=1)


class ConvFFN(nn.Module):
    """Linear, depth-wise convolution, GELU, linear."""

    def __init__(self, width: int, hidden: int, sides: Sequence[int]) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.dwconv = DepthwiseConv(hidden, sides)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Same shape."""
        return self.fc2(F.gelu(self.dwconv(self.fc1(tokens))))


class Injector(nn.Module):
    """Pyramid to ViT: x + gamma * attention(x, c)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(config.width)
        self.feat_norm = nn.LayerNorm(config.width)
        sides = config.pyramid[1:]
        self.attn = _attention(config, sides)
        self.gamma = nn.Parameter(torch.full((config.width,), config.injector_gamma))

    def forward(self, tokens: Tensor, pyramid: Tensor, reference: Tensor) -> Tensor:
        """tokens [n, patches, width], pyramid [n, cells, width]; returns tokens."""
        return tokens + self.gamma * self.attn(self.query_norm(tokens), self.feat_norm(pyramid), reference)


class Extractor(nn.Module):
    """ViT to pyramid: attention, then a convolutional feed-forward."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(config.width)
        self.feat_norm = nn.LayerNorm(config.width)
        sides = (config.grid,)
        self.attn = _attention(config, sides)
        self.ffn = ConvFFN(config.width, int(config.width * config.ffn_ratio), config.pyramid[1:])
        self.ffn_norm = nn.LayerNorm(config.width)

    def forward(self, pyramid: Tensor, tokens: Tensor, reference: Tensor) -> Tensor:
        """Same shapes as the injector's; returns the pyramid."""
        pyramid = pyramid + self.attn(self.query_norm(pyramid), self.feat_norm(tokens), reference)
        return pyramid + self.ffn(self.ffn_norm(pyramid))


class Interaction(nn.Module):
    """One exchange around a group of ViT layers; the last one refines the pyramid twice more."""

    def __init__(self, config: VisionConfig, *, last: bool) -> None:
        super().__init__()
        self.injector = Injector(config)
        self.extractor = Extractor(config)
        self.extra_extractors = nn.ModuleList([Extractor(config) for _ in range(2)]) if last else None

    def extract(self, pyramid: Tensor, tokens: Tensor, reference: Tensor) -> Tensor:
        """All extractors of this interaction in turn."""
        pyramid = self.extractor(pyramid, tokens, reference)
        for extractor in self.extra_extractors or ():
            pyramid = extractor(pyramid, tokens, reference)
        return pyramid

"""What the model asks of an image encoder and of an image head: training and generation know them by these two protocols alone.

Another encoder (a DINOv2, say) or head (a diffusion transformer, a stream of VQ tokens that the language model writes) is a torch module
with these methods, given to VisualTokenizer or MMInterleaved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from model.batch import PictureTargets
from model.sequence import Pairs

Scheduler = Literal["ddpm", "ddim", "dpm", "euler"]


class ImageEncoder(Protocol):
    """Pictures to a sequence for the resampler and maps for MMFS."""

    def __call__(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Normalised images [n, 3, px, px] to hidden [n, class tokens + patches, width] and maps [n, width, s, s], finest first.

        Sizes are those of the VisionConfig: `class_tokens`, `grid` squared patches, maps with the sides of `pyramid`.
        """
        ...

    def checkpoint_activations(self) -> None:
        """Compute activations again for the gradient from here on."""
        ...


class Writer(Protocol):
    """The language model where m pictures begin, for a head that lets it write tokens of the head's own: pictures as words.

    What is written is remembered by the writer alone; the document goes on with the picture as the encoder sees it.
    """

    def last(self) -> Tensor:
        """Hidden states of the newest token, at first BoI, [m, language width]."""
        ...

    def extend(self, embeddings: Tensor) -> Tensor:
        """Hidden states of k further tokens of each, both [m, k, language width]."""
        ...


@dataclass(frozen=True)
class PictureContext:
    """What is known where m pictures begin.

    tokens [m, T, language width]: the projected hidden states from BoI back to the document's start; mask [m, T] bool, True = real;
    looked_at [s, cells, value_width]: what cross-attention may read of earlier images; pairs: which of them (numbered in looked_at) each
    picture (numbered 0..m-1) sees, and how far back. `writer` opens the language model there; in training it reads the documents a second
    time, so only a head that asks for it pays.
    """

    tokens: Tensor
    mask: Tensor
    looked_at: Tensor
    pairs: Pairs
    writer: Callable[[], Writer]


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn, as far as a head has use for it: denoising steps, the two guidance scales (1 is none), the sampler.

    Raises ValueError for a value out of range.
    """

    steps: int = 20
    guidance: float = 2.0
    image_guidance: float = 1.0
    scheduler: Scheduler = "ddim"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}, it must be at least 1")
        for name, value in (("guidance", self.guidance), ("image_guidance", self.image_guidance)):
            if not math.isfinite(value):
                raise ValueError(f"{name} is {value}, it must be finite")
        if self.scheduler not in get_args(Scheduler):
            raise ValueError(f"scheduler is {self.scheduler!r}, it must be one of {', '.join(get_args(Scheduler))}")


class ImageHead(Protocol):
    """Makes pictures of what the language model has read."""

    def losses(self, context: PictureContext, targets: PictureTargets) -> Tensor:
        """The error of each picture [m], float32; whatever is random about it comes from `targets`."""
        ...

    def check(self, how: Drawing) -> None:
        """Raises ValueError, naming the fix, where it cannot draw so."""
        ...

    def sample(self, context: PictureContext, generators: Sequence[torch.Generator], how: Drawing) -> Tensor:
        """Pictures [m, 3, side, side] in 0..1. All that is random about picture i comes from generators[i] (on the CPU)."""
        ...

    def reencode(self, pictures: Tensor, side: int) -> Tensor:
        """Its own pictures as the encoder reads them, [m, 3, side, side] in 0..1."""
        ...

    def checkpoint_activations(self) -> None:
        """Compute activations again for the gradient from here on."""
        ...

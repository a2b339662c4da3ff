"""Other image heads and encoders train and generate through the same loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from packed_rows import MakeBatch
from torch import Tensor, nn

from kernels.testing import assert_close
from model.batch import PictureTargets
from model.build import build_model
from model.config import ModelConfig, VisionConfig
from model.decoding import DecodingState
from model.generation import GeneratedImage, GenerationOptions, generate, generate_images
from model.mm_interleaved import MMInterleaved
from model.prompts import Items, Prompt, read_prompts
from model.protocols import Drawing, ImageEncoder, ImageHead, PictureContext
from model.session import Session
from model.vision_encoder import VisionEncoder
from model.visual_tokenizer import VisualTokenizer

STORY = [5, 6, "image", 7, 8, "image", 9]


class GreyTokens(nn.Module):
    """A picture as a stream of VQ tokens that the language model writes: each patch is one of a few greys."""

    def __init__(self, width: int, side: int = 4, greys: int = 8, patch: int = 6) -> None:
        super().__init__()
        self.side, self.greys, self.patch = side, greys, patch
        self.words = nn.Embedding(greys, width)
        self.scores = nn.Linear(width, greys)

    def losses(self, context: PictureContext, targets: PictureTargets) -> Tensor:
        codes = self.encode(targets.images)
        writer = context.writer()
        first = writer.last().unsqueeze(1)
        scores = self.scores(torch.cat((first, writer.extend(self.words(codes[:, :-1]))), dim=1))
        return F.cross_entropy(scores.transpose(1, 2), codes, reduction="none").mean(1)

    def check(self, how: Drawing) -> None:
        """It has no way of drawing but one."""

    def sample(self, context: PictureContext, generators: Sequence[torch.Generator], how: Drawing) -> Tensor:
        writer = context.writer()
        codes: list[Tensor] = []
        while len(codes) < self.side**2:
            if codes:
                writer.extend(self.words(codes[-1]))
            odds = self.scores(writer.last()).softmax(-1)
            drawn = [torch.multinomial(row, 1, generator=generator) for row, generator in zip(odds, generators, strict=True)]
            codes.append(torch.stack(drawn))
        return self.decode(torch.cat(codes, dim=1))

    def reencode(self, pictures: Tensor, side: int) -> Tensor:
        return F.interpolate(pictures, size=(side, side), mode="nearest")

    def checkpoint_activations(self) -> None:
        """It has none worth it."""

    def encode(self, pictures: Tensor) -> Tensor:
        patches = F.adaptive_avg_pool2d(pictures.mean(1, keepdim=True), self.side)
        return (patches * self.greys).long().clamp(max=self.greys - 1).flatten(1)

    def decode(self, codes: Tensor) -> Tensor:
        greys = (codes.view(-1, 1, self.side, self.side) + 0.5) / self.greys
        return greys.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3).expand(-1, 3, -1, -1)


class Pooled(nn.Module):
    """The least that an encoder can be: every map the picture itself, smaller."""

    def __init__(self, vision: VisionConfig) -> None:
        super().__init__()
        self.vision = vision
        self.lift = nn.Conv2d(3, vision.width, 1)
        self.recomputes = False

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        maps = tuple(self.lift(F.adaptive_avg_pool2d(images, side)) for side in self.vision.pyramid)
        patches = maps[2].flatten(2).transpose(1, 2)
        return F.pad(patches, (0, 0, self.vision.class_tokens, 0)), maps

    def checkpoint_activations(self) -> None:
        self.recomputes = True


def composed(config: ModelConfig, *, encoder: ImageEncoder | None = None, head: ImageHead | None = None) -> MMInterleaved:
    """The smallest model with another encoder or head in it."""
    usual = build_model(config, seed=0)
    torch.manual_seed(0)
    width = config.language.width
    tokenizer = VisualTokenizer(encoder, config.vision, config.visual_resampler, width) if encoder else usual.visual_tokenizer
    return MMInterleaved(config, tokenizer, usual.mm_decoder, usual.text_decoder, head or usual.image_decoder)


@pytest.fixture(scope="module")
def grey(config: ModelConfig) -> MMInterleaved:
    """A model that likes to begin pictures."""
    model = composed(config, head=GreyTokens(config.language.width)).eval()
    with torch.no_grad():
        model.text_decoder.head.bias[config.tokens.boi] = 4.0
    return model


def test_another_head_learns_through_the_same_step(config: ModelConfig, make_batch: MakeBatch) -> None:
    model = composed(config, head=GreyTokens(config.language.width)).train()
    model.checkpoint_activations()
    assert model(make_batch([[[5, 6, 7]]])).image_loss == 0
    batch = make_batch([[STORY], [["image", 11], [12, 13, "image"]]], columns=32)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        output = model(batch)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(output.image_loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert model.soi_token.grad is not None
    assert model.soi_token.grad.abs().max() > 0
    assert [name for name, parameter in model.image_decoder.named_parameters() if parameter.grad is None] == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("visible", ["all", "nearest"])
def test_a_head_that_writes_reads_the_same_in_training_and_generation(config: ModelConfig, make_batch: MakeBatch, visible: str) -> None:
    model = composed(replace(config, visible_images=visible), head=GreyTokens(config.language.width)).eval()  # type: ignore[arg-type]
    batch = make_batch([[[3, "image", 4], STORY], [[7, 8, "image", 9, "image"]]], columns=32)
    images = batch.images
    befores: list[Items] = [((3,),), ((5, 6),), ((5, 6), images[1], (7, 8)), ((7, 8),), ((7, 8), images[3], (9,))]
    state = DecodingState(model, 5)
    with torch.no_grad():
        trained = model(batch)
        read_prompts(state, [Prompt(str(number), items) for number, items in enumerate(befores)])
        state.append([[config.tokens.boi]] * 5)
        losses = model.image_decoder.losses(state.context(range(5)), batch.picture_targets(torch.arange(5)))
    assert trained.image_count == 5
    assert_close(trained.image_loss_sum, losses.sum(), "model")


def test_another_head_draws_in_the_same_loop(grey: MMInterleaved, config: ModelConfig) -> None:
    given = torch.rand(3, config.vision.image_px, config.vision.image_px, generator=torch.Generator().manual_seed(0))
    prompts = [Prompt("a", ((5,), given, (6,))), Prompt("b", ((7, 8),))]
    pictures = generate_images(grey, prompts, GenerationOptions())
    assert pictures.shape == (2, 3, 24, 24)
    assert_close(pictures[1:], generate_images(grey, prompts[1:], GenerationOptions()), "model")
    assert not torch.equal(pictures, generate_images(grey, prompts, GenerationOptions(seed=1)))
    results = generate(grey, prompts, GenerationOptions(max_new_tokens=4, max_images=2))
    assert any(isinstance(piece, GeneratedImage) for result in results for piece in result)


def test_what_a_head_drew_is_read_as_the_head_says(grey: MMInterleaved, config: ModelConfig) -> None:
    prompt = Prompt("a", ((5, 6),))
    session = Session.begin(grey, [prompt])
    drawn = session.generate(GenerationOptions(mode="image"))[0][0]
    assert isinstance(drawn, GeneratedImage)
    read = grey.image_decoder.reencode(drawn.pixels[None], config.shape.image_px)[0]
    text = GenerationOptions(mode="text", max_new_tokens=5)
    assert session.generate(text) == generate(grey, [replace(prompt, items=(*prompt.items, read))], text)


@pytest.mark.parametrize("family", ["clip", "siglip", "pooled"])
def test_encoders_are_known_by_what_they_give(config: ModelConfig, make_batch: MakeBatch, family: str) -> None:
    vision = config.vision if family == "pooled" else replace(config.vision, family=family)  # type: ignore[arg-type]
    config = replace(config, vision=vision)
    encoder: ImageEncoder = Pooled(vision) if family == "pooled" else VisionEncoder(vision)
    model = composed(config, encoder=encoder).train()
    model.checkpoint_activations()
    model(make_batch([[STORY]])).loss.backward()
    missing = [name for name, parameter in model.visual_tokenizer.encoder.named_parameters() if parameter.grad is None]  # type: ignore[attr-defined]
    assert missing == []
    given = torch.rand(3, vision.image_px, vision.image_px)
    assert len(generate(model.eval(), [Prompt("a", (given, (5,)))], GenerationOptions(steps=1, max_new_tokens=3))) == 1

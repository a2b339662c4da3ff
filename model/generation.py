"""Interleaved generation: text until the model itself begins a picture, the picture, text again, until the end of the document."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from model.choosing import GREEDY, Choosing, choose
from model.config import ModelShape
from model.decoding import DecodingState
from model.mm_interleaved import MMInterleaved
from model.visual_tokenizer import VisualFeatures

Piece = int | Tensor
Listener = Callable[[str, Piece], None]


@dataclass(frozen=True)
class Prompt:
    """Texts as token ids and pictures [3, px, px] in 0..1 at encoder size, in order; BOS is added where it is missing.

    `id` keys every random choice.
    """

    id: str
    items: tuple[tuple[int, ...] | Tensor, ...]


@dataclass(frozen=True)
class GenerationOptions:
    """What to generate and how. `interleaved`: the model decides; `text`: no pictures; `image`: one picture now, then stop.

    guidance 1 is none; `image_guidance` other than 1 guides towards the images looked at as well (a third pass of
    the decoder). Counts are per sample.
    """

    mode: Literal["interleaved", "text", "image"] = "interleaved"
    max_new_tokens: int = 48
    max_images: int = 8
    choosing: Choosing = GREEDY
    steps: int = 20
    guidance: float = 2.0
    image_guidance: float = 1.0
    scheduler: Literal["ddpm", "ddim", "dpm"] = "ddim"
    seed: int = 0


@dataclass(frozen=True)
class GeneratedText:
    """Token ids without special ones; `ended` if the model ended the document after them."""

    ids: tuple[int, ...]
    ended: bool


@dataclass(frozen=True)
class GeneratedImage:
    """[3, px, px] in 0..1 at decoder size, on the CPU."""

    pixels: Tensor


Generated = list[GeneratedText | GeneratedImage]


@torch.no_grad()
def generate(
    model: MMInterleaved, prompts: Sequence[Prompt], options: GenerationOptions, on_event: Listener | None = None
) -> list[Generated]:
    """Continue each prompt. `on_event(prompt id, token id or picture)` hears every piece as it comes.

    A result depends on the weights, the prompt and (seed, prompt id), not on the other prompts of the batch.
    Raises ValueError for a model in training mode, an empty batch or a picture of the wrong size.
    """
    if model.training:
        raise ValueError("generation needs a model in evaluation mode; call model.eval() first")
    if not prompts:
        raise ValueError("no prompts")
    return _Generation(model, prompts, options, on_event or _nobody).run()


def generate_text(model: MMInterleaved, prompts: Sequence[Prompt], options: GenerationOptions) -> list[tuple[int, ...]]:
    """Only text after each prompt: its token ids."""
    results = generate(model, prompts, replace(options, mode="text"))
    return [tuple(token for piece in result if isinstance(piece, GeneratedText) for token in piece.ids) for result in results]


def generate_images(model: MMInterleaved, prompts: Sequence[Prompt], options: GenerationOptions) -> Tensor:
    """One picture after each prompt, [prompts, 3, px, px] in 0..1."""
    results = generate(model, prompts, replace(options, mode="image"))
    return torch.stack([piece.pixels for result in results for piece in result if isinstance(piece, GeneratedImage)])


def _nobody(name: str, piece: Piece) -> None:
    del name, piece


class _Generation:
    """One batch from prompt to end."""

    def __init__(self, model: MMInterleaved, prompts: Sequence[Prompt], options: GenerationOptions, listener: Listener) -> None:
        self.model = model
        self.prompts = prompts
        self.options = options
        self.listener = listener
        self.tokens = model.config.tokens
        self.shape = model.config.shape
        self.state = DecodingState(model, len(prompts))
        self.text: list[list[int]] = [[] for _ in prompts]
        self.results: list[Generated] = [[] for _ in prompts]
        self.said: list[list[int]] = [[] for _ in prompts]
        self.drawn = [0] * len(prompts)
        self.ended = [False] * len(prompts)

    def run(self) -> list[Generated]:
        """The rounds: write until every row waits for a picture or has ended, then draw for those that wait."""
        read_prompts(self.state, self.prompts)
        rows = list(range(len(self.prompts)))
        if self.options.mode == "image":
            self._append({row: [self.tokens.boi] for row in rows})
            self._draw(rows)
            return self.results
        while rows:
            waiting = self._write(rows)
            if waiting:
                self._draw(waiting)
                self._reread(waiting)
            rows = waiting
        return self.results

    def _write(self, rows: list[int]) -> list[int]:
        """Text for these rows until each has ended or begun a picture; returns those that wait for one."""
        active, waiting = set(rows), []
        while active:
            chosen = self._choose(sorted(active))
            taken: dict[int, list[int]] = {}
            for row, token in chosen.items():
                if token == self.tokens.boi:
                    waiting.append(row)
                elif token is not None and token != self.tokens.eos:
                    self.text[row].append(token)
                    self.said[row].append(token)
                    self.listener(self.prompts[row].id, token)
                if token in (None, self.tokens.eos, self.tokens.boi):
                    active.discard(row)
                    self._close_text(row, ended=token == self.tokens.eos)
                if token is not None and token != self.tokens.eos:
                    taken[row] = [token]
            if taken:
                self._append(taken)
        return sorted(waiting)

    def _choose(self, rows: list[int]) -> dict[int, int | None]:
        """The next token of each row; None where its budget or the model's length is spent."""
        logits = self.state.logits()[rows].float()
        logits[:, [self.tokens.pad, self.tokens.bos, self.tokens.image]] = -torch.inf
        for place, row in enumerate(rows):
            if self.options.mode == "text" or self.drawn[row] >= self.options.max_images:
                logits[place, self.tokens.boi] = -torch.inf
        how = self.options.choosing
        generators = [self._generator(row, f"token {len(self.said[row])}") if how.temperature else None for row in rows]
        ends = (self.tokens.eos, self.tokens.boi)
        said, lengths = [self.said[row] for row in rows], [len(self.text[row]) for row in rows]
        best = choose(logits, said, lengths, ends, how, generators)
        full = self.state.length + self.shape.num_visual_tokens + 1 >= self.shape.max_row_tokens
        over = [
            bool(full[row]) or (len(self.said[row]) >= self.options.max_new_tokens and token != self.tokens.eos)
            for row, token in zip(rows, best, strict=True)
        ]
        return {row: None if stop else token for row, token, stop in zip(rows, best, over, strict=True)}

    def _close_text(self, row: int, *, ended: bool) -> None:
        if self.text[row] or ended:
            self.results[row].append(GeneratedText(tuple(self.text[row]), ended))
        self.text[row] = []

    def _draw(self, rows: list[int]) -> None:
        options = self.options
        generators = [self._generator(row, f"picture {self.drawn[row]}") for row in rows]
        pictures = self.state.draw(
            rows,
            generators,
            steps=options.steps,
            guidance=options.guidance,
            image_guidance=options.image_guidance,
            scheduler=options.scheduler,
        ).cpu()
        for row, pixels in zip(rows, pictures, strict=True):
            self.results[row].append(GeneratedImage(pixels))
            self.drawn[row] += 1
            self.listener(self.prompts[row].id, pixels)

    def _reread(self, rows: list[int]) -> None:
        """What was drawn becomes part of the context, as the encoder sees it."""
        side = self.shape.image_px
        pictures = torch.stack([piece.pixels for row in rows for piece in self.results[row][-1:] if isinstance(piece, GeneratedImage)])
        if pictures.shape[-1] != side:
            pictures = F.interpolate(pictures, size=(side, side), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        self._append({row: [self.tokens.image] * self.shape.num_visual_tokens for row in rows}, self._encode(pictures))

    def _append(self, taken: dict[int, list[int]], features: VisualFeatures | None = None) -> None:
        self.state.append([taken.get(row, []) for row in range(len(self.prompts))], features)

    def _encode(self, pictures: Tensor) -> VisualFeatures:
        return self.model.visual_tokenizer(pictures.to(self.model.device))

    def _generator(self, row: int, purpose: str) -> torch.Generator:
        key = f"{self.options.seed}/{self.prompts[row].id}/{purpose}".encode()
        return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:7]))


def read_prompts(state: DecodingState, prompts: Sequence[Prompt]) -> None:
    """Let fresh sequences begin with these prompts. Raises ValueError for one that is too long or a picture of the wrong size."""
    model = state.model
    tokens, shape = model.config.tokens, model.config.shape
    rows: list[list[int]] = []
    pictures: list[Tensor] = []
    for prompt in prompts:
        ids: list[int] = []
        for item in prompt.items:
            if isinstance(item, Tensor):
                pictures.append(_checked(item, prompt.id, shape))
                ids += [tokens.boi, *[tokens.image] * shape.num_visual_tokens]
            else:
                ids += item
        if ids[:1] != [tokens.bos]:
            ids.insert(0, tokens.bos)
        if len(ids) > shape.max_row_tokens:
            raise ValueError(f"prompt {prompt.id!r} has {len(ids)} tokens; the model reads at most {shape.max_row_tokens}")
        rows.append(ids)
    state.append(rows, model.visual_tokenizer(torch.stack(pictures).to(model.device)) if pictures else None)


def _checked(picture: Tensor, name: str, shape: ModelShape) -> Tensor:
    wanted = (3, shape.image_px, shape.image_px)
    if tuple(picture.shape) != wanted:
        raise ValueError(f"prompt {name!r}: a picture is {tuple(picture.shape)}, expected {wanted}")
    return picture

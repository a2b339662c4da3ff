"""Interleaved generation: text until the model itself begins a picture, the picture, text again, until the end of the document."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from model.batch import InputError
from model.beams import Beams, search
from model.choosing import GREEDY, Choosing, admissible, choose
from model.decoding import DecodingState
from model.mm_interleaved import MMInterleaved
from model.prompts import Prompt, read_prompts
from model.protocols import Drawing, Scheduler

Mode = Literal["interleaved", "text", "image"]
Piece = int | Tensor
Listener = Callable[[str, Piece], None]


@dataclass(frozen=True)
class GenerationOptions:
    """What to generate and how. `interleaved`: the model decides; `text`: no pictures; `image`: one picture now, then stop.

    guidance 1 is none; `image_guidance` other than 1 guides towards the images looked at as well (a third pass of
    the decoder), and at most `pictures_at_once` go through it together, which bounds its memory. Counts are per sample; where beams are
    searched, the end of a text counts as a token of it. Raises ValueError for a value out of range.
    """

    mode: Mode = "interleaved"
    max_new_tokens: int = 48
    max_images: int = 8
    choosing: Choosing = GREEDY
    steps: int = 20
    guidance: float = 2.0
    image_guidance: float = 1.0
    scheduler: Scheduler = "ddim"
    seed: int = 0
    pictures_at_once: int = 32

    def __post_init__(self) -> None:
        for name, value in (("max_new_tokens", self.max_new_tokens), ("max_images", self.max_images)):
            if value < 0:
                raise ValueError(f"{name} is {value}, it must be at least 0")
        if self.pictures_at_once < 1:
            raise ValueError(f"pictures_at_once is {self.pictures_at_once}, it must be at least 1")
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode is {self.mode!r}, it must be one of {', '.join(get_args(Mode))}")
        if self.choosing.min_new_tokens > self.max_new_tokens:
            raise ValueError(f"min_new_tokens is {self.choosing.min_new_tokens}, it must be at most max_new_tokens ({self.max_new_tokens})")
        self.drawing()

    def drawing(self) -> Drawing:
        """What of it the image head needs to know."""
        return Drawing(self.steps, self.guidance, self.image_guidance, self.scheduler)


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
    """Continue each prompt. `on_event(prompt id, token id or picture)` hears every piece as it comes; a text found by beams comes whole.

    A result depends on the weights, the prompt and (seed, prompt id), not on the other prompts of the batch. To go on after it without
    reading anything again, see model.session. Raises ValueError for a model in training mode, no prompts, a way of drawing that the image
    head has not, or what `read_prompts` refuses.
    """
    check_ready(model, prompts)
    model.image_decoder.check(options.drawing())
    state = DecodingState(model, len(prompts))
    read_prompts(state, prompts)
    return Continuation(state, [prompt.id for prompt in prompts], options, on_event).run()


def check_ready(model: MMInterleaved, prompts: Sequence[Prompt]) -> None:
    """Raises ValueError for a model in training mode, one whose special tokens are not in its vocabulary, or no prompts."""
    if model.training:
        raise ValueError("generation needs a model in evaluation mode; call model.eval() first")
    config = model.config
    if max(config.pad_id, config.bos_id, config.eos_id) >= config.vocab_size:
        ids = f"pad_id {config.pad_id}, bos_id {config.bos_id}, eos_id {config.eos_id}"
        raise ValueError(f"{ids}: not all in the vocabulary of {config.vocab_size}; configure the model with its tokenizer's ids")
    if not prompts:
        raise ValueError("no prompts")


def generate_text(model: MMInterleaved, prompts: Sequence[Prompt], options: GenerationOptions) -> list[tuple[int, ...]]:
    """Only text after each prompt: its token ids."""
    results = generate(model, prompts, replace(options, mode="text"))
    return [tuple(token for piece in result if isinstance(piece, GeneratedText) for token in piece.ids) for result in results]


def generate_images(model: MMInterleaved, prompts: Sequence[Prompt], options: GenerationOptions) -> Tensor:
    """One picture after each prompt, [prompts, 3, px, px] in 0..1."""
    results = generate(model, prompts, replace(options, mode="image"))
    return torch.stack([piece.pixels for result in results for piece in result if isinstance(piece, GeneratedImage)])


class Continuation:
    """What one batch of sequences says next, from a state that has read what comes before.

    Afterwards the state has read what was said as well, but for the pictures of mode `image`.
    """

    def __init__(self, state: DecodingState, names: Sequence[str], options: GenerationOptions, listener: Listener | None = None) -> None:
        self.state = state
        self.names = names
        self.options = options
        self.listener = listener
        self.config = state.model.config
        self.tokens = self.config.tokens
        self.text: list[list[int]] = [[] for _ in names]
        self.results: list[Generated] = [[] for _ in names]
        self.said: list[list[int]] = [[] for _ in names]
        self.drawn = [0] * len(names)
        self.seen: list[int] = state.sees.sum(1).tolist()

    def run(self) -> list[Generated]:
        """The rounds: write until every row waits for a picture or has ended, then draw for those that wait."""
        rows = list(range(len(self.names)))
        if self.options.mode == "image":
            self._begin_pictures(rows)
            self._draw(rows)
            return self.results
        write = self._write if self.options.choosing.beams == 1 else self._search
        while rows:
            rows = write(rows)
            if rows:
                self.state.reread(rows, self._draw(rows))
        return self.results

    def _begin_pictures(self, rows: Sequence[int]) -> None:
        longest = self.config.shape.max_row_tokens
        for row in rows:
            if int(self.state.length[row]) >= longest:
                raise InputError(f"prompt {self.names[row]!r} has {longest} tokens, all the model reads; shorten it to draw after it")
        self.state.append(self._at({row: [self.tokens.boi] for row in rows}))

    def _write(self, rows: Sequence[int]) -> list[int]:
        """Text for these rows, token by token, until each has ended or begun a picture; returns those that wait for one."""
        active, waiting = set(rows), []
        while active:
            taken: dict[int, list[int]] = {}
            for row, token in self._choose(sorted(active)).items():
                ended = token is None or token in self._ends(row)
                if token is not None and token != self.tokens.eos:
                    taken[row] = [token]
                if token is not None and not ended:
                    self._say(row, token)
                if token == self.tokens.boi:
                    waiting.append(row)
                if ended:
                    active.discard(row)
                    self._close_text(row, ended=token == self.tokens.eos)
            self.state.append(self._at(taken))
        return sorted(waiting)

    def _choose(self, rows: Sequence[int]) -> dict[int, int | None]:
        """The next token of each row; None where its budget or the model's length is spent."""
        logits = self.state.logits()[list(rows)].float()
        for place, row in enumerate(rows):
            logits[place, self._forbidden(row)] = -torch.inf
        how = self.options.choosing
        lengths = self.state.length.tolist()
        generators = [self._generator(row, f"token {lengths[row]}") if how.temperature else None for row in rows]
        said, written = [self.said[row] for row in rows], [len(self.text[row]) for row in rows]
        best = choose(logits, said, written, (self.tokens.eos, self.tokens.boi), how, generators)
        over = [
            self._room(lengths[row]) < 1 or (len(self.said[row]) >= self.options.max_new_tokens and token != self.tokens.eos)
            for row, token in zip(rows, best, strict=True)
        ]
        return {row: None if stop else token for row, token, stop in zip(rows, best, over, strict=True)}

    def _search(self, rows: Sequence[int]) -> list[int]:
        """As `_write`, each text the best that a beam search finds."""
        how, lengths = self.options.choosing, self.state.length.tolist()
        limits = [min(self.options.max_new_tokens - len(self.said[row]), self._room(lengths[row])) for row in rows]
        searches = [Beams(how.beams, how.length_penalty, self._ends(row), limit) for row, limit in zip(rows, limits, strict=True)]

        def scorer(number: int, ids: tuple[int, ...], logs: Tensor) -> Tensor:
            row = rows[number]
            scores = admissible(logs, [*self.said[row], *ids], len(ids), self._ends(row), how)
            return scores.index_fill(1, torch.tensor(self._forbidden(row), device=scores.device), -torch.inf)

        waiting, taken = [], {}
        for row, ids in zip(rows, search(self.state, rows, searches, scorer), strict=True):
            end = ids[-1] if ids and ids[-1] in self._ends(row) else None
            for token in ids if end is None else ids[:-1]:
                self._say(row, token)
            self._close_text(row, ended=end == self.tokens.eos)
            taken[row] = list(ids[:-1] if end == self.tokens.eos else ids)
            if end == self.tokens.boi:
                waiting.append(row)
        self.state.append(self._at(taken))
        return waiting

    def _draw(self, rows: Sequence[int]) -> Tensor:
        generators = [self._generator(row, f"picture {self.seen[row]}") for row in rows]
        most, how = self.options.pictures_at_once, self.options.drawing()
        parts = [slice(first, first + most) for first in range(0, len(rows), most)]
        drawn = torch.cat([self.state.draw(rows[part], generators[part], how).cpu() for part in parts])
        for row, pixels in zip(rows, drawn, strict=True):
            self.results[row].append(GeneratedImage(pixels))
            self.drawn[row] += 1
            self.seen[row] += 1
            self._tell(row, pixels)
        return drawn

    def _forbidden(self, row: int) -> list[int]:
        """Tokens that this row may not choose: a picture only where there may be one more."""
        most, tokens = self.config.most_images, self.tokens
        full = self.drawn[row] >= self.options.max_images or (most is not None and self.seen[row] >= most)
        # A language model may begin or pad documents with the token that ends them.
        never = [token for token in (tokens.pad, tokens.bos, tokens.image) if token != tokens.eos]
        return [*never, tokens.boi] if self.options.mode == "text" or full else never

    def _ends(self, row: int) -> tuple[int, ...]:
        """Tokens that end a text of this row."""
        return (self.tokens.eos,) if self.tokens.boi in self._forbidden(row) else (self.tokens.eos, self.tokens.boi)

    def _room(self, length: int) -> int:
        """Tokens that may follow so many with a picture still possible after them."""
        return self.config.shape.max_row_tokens - self.config.shape.num_visual_tokens - 1 - length

    def _say(self, row: int, token: int) -> None:
        self.text[row].append(token)
        self.said[row].append(token)
        self._tell(row, token)

    def _tell(self, row: int, piece: Piece) -> None:
        if self.listener is not None:
            self.listener(self.names[row], piece)

    def _close_text(self, row: int, *, ended: bool) -> None:
        if self.text[row] or ended:
            self.results[row].append(GeneratedText(tuple(self.text[row]), ended))
        self.text[row] = []

    def _at(self, taken: dict[int, list[int]]) -> list[list[int]]:
        return [taken.get(row, []) for row in range(len(self.names))]

    def _generator(self, row: int, purpose: str) -> torch.Generator:
        """Randomness of (seed, id, place in the sequence): the same whether what comes before was read or said."""
        key = f"{self.options.seed}/{self.names[row]}/{purpose}".encode()
        return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:7]))

"""Conversations: sequences that go on turn by turn and branch, over caches that are kept. Nothing is read or encoded a second time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model.batch import InputError
from model.decoding import DecodingState
from model.generation import Continuation, Generated, GeneratedImage, GenerationOptions, Listener, check_ready
from model.mm_interleaved import MMInterleaved
from model.prompts import Items, Prompt, read_prompts
from model.scoring import score_after


class Session:
    """A batch of conversations, one a prompt. What a turn gives is what one long prompt of all before it would give.

    That holds for drawn tokens and pictures too: their randomness follows from (seed, prompt id, place in the sequence). Penalties and
    budgets of a turn count that turn alone. A text that the model ended is gone on from as if it had not said so. Where a call raises, the
    session stays as it was.
    """

    def __init__(self, state: DecodingState, names: Sequence[str]) -> None:
        """Conversations of these ids that have read what the rows of a state have."""
        self._state = state
        self._names = list(names)
        self._drawn: Tensor | None = None

    @classmethod
    def begin(cls, model: MMInterleaved, prompts: Sequence[Prompt]) -> Session:
        """Read the prompts. Raises ValueError as `model.generation.generate` does."""
        check_ready(model, prompts)
        return cls(DecodingState(model, len(prompts)), [prompt.id for prompt in prompts])._having_read(prompts)

    @property
    def tokens(self) -> list[int]:
        """How much of the model's length each conversation has taken, a picture drawn last not counted."""
        lengths: list[int] = self._state.length.tolist()
        return lengths

    def read(self, turns: Sequence[Items]) -> None:
        """What is said to each conversation next, nothing where its items are empty. Raises InputError as `read_prompts` does."""
        if len(turns) != len(self._names):
            raise InputError(f"{len(turns)} turns for {len(self._names)} conversations; give one to each, () where nothing is said")
        self._having_read([Prompt(name, items) for name, items in zip(self._names, turns, strict=True)])

    @torch.no_grad()
    def generate(self, options: GenerationOptions, on_event: Listener | None = None) -> list[Generated]:
        """What the model says next in each conversation; it is part of them from then on."""
        self._state.model.image_decoder.check(options.drawing())
        state = self._up_to_date()
        results = Continuation(state, self._names, options, on_event).run()
        pictures = [piece.pixels for result in results for piece in result if isinstance(piece, GeneratedImage)]
        self._state = state
        self._drawn = torch.stack(pictures) if options.mode == "image" else None
        return results

    def score(self, options: Sequence[Sequence[int]], conversation: int = 0, batch: int = 128) -> list[float]:
        """Log-probability of each of these texts as the next of a conversation; see `model.scoring.score_options`."""
        self._check_conversation(conversation)
        self._catch_up()
        return score_after(self._state, conversation, self._names[conversation], options, batch)

    def branch(self, prompts: Sequence[Prompt], conversation: int = 0) -> Session:
        """A session that goes on from one conversation by each of these prompts, under their ids; this one stays as it is."""
        check_ready(self._state.model, prompts)
        self._check_conversation(conversation)
        self._catch_up()
        state = self._state.select([conversation] * len(prompts))
        return Session(state, [prompt.id for prompt in prompts])._having_read(prompts)

    def _check_conversation(self, number: int) -> None:
        if not 0 <= number < len(self._names):
            raise InputError(f"there is no conversation {number}; the session has {len(self._names)}, counted from 0")

    @torch.no_grad()
    def _having_read(self, prompts: Sequence[Prompt]) -> Session:
        state = self._up_to_date()
        read_prompts(state, prompts)
        self._state, self._drawn = state, None
        return self

    @torch.no_grad()
    def _catch_up(self) -> None:
        self._state, self._drawn = self._up_to_date(), None

    def _up_to_date(self) -> DecodingState:
        """A state of our own that has read all pictures; one that mode `image` drew is read when something follows it."""
        state = self._state.fork()
        if self._drawn is not None:
            state.reread(range(len(self._names)), self._drawn)
        return state

"""Three-level captions of a sequence of frames, self-reflection round by round, and a last judge (ILLUME-X 4)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from components.curation_params import CaptionLevels
from components.data.captioning.request import Captioner, Reply, Request, cleaned
from components.data.curation import prompts
from components.data.curation.record import Judged, Round


@dataclass
class Cost:
    """Work and price so far; the price is unknown once a part of it is."""

    seconds: float = 0.0
    usd: float | None = 0.0

    def add(self, reply: Reply) -> None:
        """One answer more."""
        self.seconds += reply.seconds
        self.usd = None if self.usd is None or reply.usd is None else self.usd + reply.usd


@dataclass
class Texts:
    """`whole` tells the sequence, `frames[j]` frame j, `changes[j]` what comes after it. Levels not asked for are empty."""

    whole: str | None
    frames: list[str]
    changes: list[str]

    def listed(self) -> tuple[str, ...]:
        """All of them, whole, frames, changes."""
        return (*([self.whole] if self.whole is not None else []), *self.frames, *self.changes)

    def shown(self) -> str:
        """As a critic or judge reads them."""
        lines = [f"Whole: {self.whole}"] if self.whole is not None else []
        lines += [f"Picture {number}: {text}" for number, text in enumerate(self.frames, 1)]
        lines += [f"From picture {number} to {number + 1}: {text}" for number, text in enumerate(self.changes, 1)]
        return "\n".join(lines)


@dataclass
class Told:
    """What became of a sequence: its texts, or the filter or problem that it fell by."""

    texts: Texts | None = None
    rounds: list[Round] = field(default_factory=list)
    judged: Judged | None = None
    fell_by: str = ""
    problem: str = ""
    cost: Cost = field(default_factory=Cost)


class _NoAnswer(Exception):
    """A text that is needed cannot be had."""


class Teller:
    """Asks for verdicts, captions, critiques and scores.

    A captioner that does not converse gives frame captions alone; nothing stands in for the rest.
    """

    def __init__(self, captioner: Captioner, params: CaptionLevels, judge: Captioner | None = None) -> None:
        self._captioner, self._params = captioner, params
        self._judge = judge or captioner
        self.converses, self.name = captioner.converses, captioner.name
        self.digest = hashlib.sha256(f"{captioner.digest} {self._judge.digest}".encode()).hexdigest() if judge else captioner.digest
        """Of all models that are asked."""

    def verdicts(self, frames: Sequence[bytes], cost: Cost) -> list[bool | None]:
        """Whether to keep each frame; None where no readable verdict came. All are kept where nobody is asked."""
        if not self.converses or not self._params.verdict:
            return [True] * len(frames)
        replies = self._ask(self._captioner, [Request(prompts.VERDICT, (frame,)) for frame in frames], cost)
        return [None if reply.text is None else prompts.read_verdict(reply.text) for reply in replies]

    def tell(self, frames: Sequence[bytes], cost: Cost) -> Told:
        """Texts of a sequence of encoded frames, reflected upon and judged."""
        told = Told(cost=cost)
        try:
            texts = self._texts(frames, "", cost)
            if self.converses:
                texts = self._reflect(frames, texts, told)
                told.judged = self._judged(frames, texts, cost)
        except _NoAnswer as error:
            told.problem = str(error)
            return told
        if told.judged is not None and told.judged.score < self._params.judge_minimum:
            told.fell_by = "judge"
        told.texts = texts
        return told

    def _reflect(self, frames: Sequence[bytes], texts: Texts, told: Told) -> Texts:
        for _ in range(self._params.rounds):
            prompt = prompts.CRITIC.format(frames=len(frames), texts=texts.shown())
            critique = prompts.read_critique(self._one(self._judge, Request(prompt, tuple(frames)), told.cost))
            told.rounds.append(Round(critique=critique, texts=texts.listed()))
            if not critique:
                break
            texts = self._texts(frames, critique, told.cost)
        return texts

    def _judged(self, frames: Sequence[bytes], texts: Texts, cost: Cost) -> Judged:
        answer = self._one(self._judge, Request(prompts.JUDGE.format(frames=len(frames), texts=texts.shown()), tuple(frames)), cost)
        score = prompts.read_score(answer)
        if score is None:
            raise _NoAnswer("the judge gave no number from 1 to 10")
        independent = self._judge.digest != self._captioner.digest
        return Judged(judge=self._judge.name, judge_digest=self._judge.digest, score=score, independent=independent)

    def _texts(self, frames: Sequence[bytes], feedback: str, cost: Cost) -> Texts:
        def prompt(text: str) -> str:
            return prompts.with_feedback(text, feedback)

        if not self.converses:
            single = [Request(self._captioner.usual_prompt, (frame,)) for frame in frames]
            return Texts(None, self._all(single, cost), [])
        requests = [Request(prompt(prompts.GLOBAL.format(frames=len(frames))), tuple(frames))]
        requests += [Request(prompt(prompts.SINGLE), (frame,)) for frame in frames]
        requests += [Request(prompt(prompts.CROSS), pair) for pair in pairwise(frames)]
        whole, *rest = self._all(requests, cost)
        return Texts(whole, rest[: len(frames)], rest[len(frames) :])

    def _all(self, requests: Sequence[Request], cost: Cost) -> list[str]:
        replies = self._ask(self._captioner, requests, cost)
        for reply in replies:
            if reply.text is None:
                raise _NoAnswer(reply.problem)
        return [reply.text or "" for reply in replies]

    def _one(self, captioner: Captioner, request: Request, cost: Cost) -> str:
        (reply,) = self._ask(captioner, [request], cost)
        if reply.text is None:
            raise _NoAnswer(reply.problem)
        return reply.text

    def _ask(self, captioner: Captioner, requests: Sequence[Request], cost: Cost) -> list[Reply]:
        replies = [cleaned(reply, self._params.text) for reply in captioner.answer(requests)]
        for reply in replies:
            cost.add(reply)
        return replies

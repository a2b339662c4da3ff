"""What a captioner is: it answers requests of a prompt and pictures with a text or the reason why there is none."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from components.curation_params import TextLimits


@dataclass(frozen=True)
class Request:
    """A prompt about encoded pictures (PNG or JPEG), in this order."""

    prompt: str
    pictures: tuple[bytes, ...]


@dataclass(frozen=True)
class Reply:
    """The answer to one request: `text`, or None and the `problem`. `seconds` of work it took, and its price where known."""

    text: str | None
    problem: str = ""
    seconds: float = 0.0
    usd: float | None = None


class Captioner(Protocol):
    """Something that tells what pictures show. Equal captioners have equal digests."""

    name: str
    """What it is called in documents: `captioner`."""
    digest: str
    """Of all that its answers follow from but the request, hexadecimal: `captioner_digest`."""
    usual_prompt: str
    """What it is asked where nobody says anything else."""
    converses: bool
    """Whether it takes any number of pictures and follows instructions; a plain captioner does neither."""

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply a request, in order. Raises StageError where none can be answered."""
        ...


# What tokenizers of many models take for control: `<|im_end|>`, `</s>`, `<image>`, `[INST]`; and fences around an answer.
_CONTROL = re.compile(
    r"<\|[^|<>]{0,80}\|>|</?(?:s|pad|unk|bos|eos|image|img|video|think|start_of_turn|end_of_turn)>|\[/?INST\]", re.IGNORECASE
)
_FENCE = re.compile(r"^```[a-z]*|```$", re.MULTILINE)


def cleaned(reply: Reply, limits: TextLimits) -> Reply:
    """The reply with its text made safe to be a document's: one line without control characters or tokens, bounded; or a problem.

    What the text says is never acted on, whatever it is.
    """
    if reply.text is None:
        return reply
    text = _without_control(reply.text[: 20 * limits.max_characters])
    if len(text) > limits.max_characters:
        text = text[: limits.max_characters + 1].rpartition(" ")[0].rstrip() or text[: limits.max_characters]
    if len(text) < limits.min_characters or not any(character.isalnum() for character in text):
        return replace(
            reply, text=None, problem=f"the answer has {len(text)} usable characters, fewer than {limits.min_characters} or no words"
        )
    return replace(reply, text=text)


def _without_control(text: str) -> str:
    text = "".join(" " if character.isspace() else character for character in text if character.isspace() or _is_visible(character))
    before = ""
    while before != text:  # what is left of `<|<|a|>b|>` may be another one
        before, text = text, _CONTROL.sub(" ", _FENCE.sub(" ", text))
    text = " ".join(text.split())
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].strip()
    return text


def _is_visible(character: str) -> bool:
    """No control, format (also those that turn the direction), surrogate, private or unassigned character, and no replacement mark."""
    return unicodedata.category(character)[0] != "C" and character != "\N{REPLACEMENT CHARACTER}"

"""Short answers: the generated text is right when its first word is the true answer. Digit questions have one-word answers."""

from __future__ import annotations

import re

_WORD = re.compile(r"[^\W_]+")


def first_word(text: str) -> str | None:
    """First run of letters and digits, lower-cased; None for a text without any."""
    found = _WORD.search(text)
    return found.group().lower() if found else None


def is_right(generated: str, answer: str) -> bool:
    """Whether the generated answer begins with the true one (every word of it, in order)."""
    wanted = [word.lower() for word in _WORD.findall(answer)]
    if not wanted:
        raise ValueError(f"the true answer {answer!r} has no word to compare with")
    return [word.lower() for word in _WORD.findall(generated)][: len(wanted)] == wanted

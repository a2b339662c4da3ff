"""What is asked of a vision-language model, in our own words (the paper prints none), and how its answers are read."""

from __future__ import annotations

import re

VERSION = 1

VERDICT = (
    "Is this video frame fit for a picture book: its content whole, recognisable and not covered by overlays, menus or credits? "
    "Answer with one word, KEEP or DROP."
)
GLOBAL = (
    "These {frames} pictures are frames of one video, in order. Tell in two or three sentences what happens and why, as one story. "
    "Do not list the pictures one by one."
)
SINGLE = (
    "Describe this picture in one or two sentences: colours, number and shape of the objects, and how they lie against the background. "
    "Tell only what can be seen."
)
CROSS = (
    "The second picture follows the first in one video. Tell in one or two sentences what changed: the subject (pose, direction, "
    "expression, how far it moved), what it acts on and with, and the surroundings (light, shadow, layout)."
)
CRITIC = (
    "These {frames} pictures are frames of one video, in order, with texts about them.\n{texts}\n"
    "Check every text against the pictures. If all are true, clear and about what matters, answer with the one word OK. "
    "Otherwise name the worst flaw and how to mend it, in one sentence."
)
JUDGE = (
    "These {frames} pictures are frames of one video, in order, with texts about them.\n{texts}\n"
    "How well do texts and pictures belong together (true, complete, coherent, good to look at)? "
    "Answer with one whole number from 1 (useless) to 10 (flawless) and nothing else."
)
FEEDBACK = "An earlier answer had this flaw: {feedback}\nAvoid it.\n\n"

_SCORE = re.compile(r"(?:score|rating)?\s*[:=]?\s*(10|[1-9])(?:\s*/\s*10)?\s*\.?", re.IGNORECASE)
_VERDICT = re.compile(r"(keep|drop)\b.{0,200}", re.IGNORECASE | re.DOTALL)


def with_feedback(prompt: str, feedback: str) -> str:
    """The prompt with a critic's words before it."""
    return FEEDBACK.format(feedback=feedback) + prompt if feedback else prompt


def read_verdict(answer: str) -> bool | None:
    """Whether to keep a frame; None for an answer that says neither."""
    found = _VERDICT.fullmatch(answer.strip())
    return found.group(1).lower() == "keep" if found else None


def read_critique(answer: str) -> str:
    """The flaw that a critic names; empty where it is content."""
    return "" if answer.strip().rstrip(".!").upper() == "OK" else answer.strip()


def read_score(answer: str) -> int | None:
    """A judge's 1 to 10; None for anything else than one such number."""
    found = _SCORE.fullmatch(answer.strip())
    return int(found.group(1)) if found else None

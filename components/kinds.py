"""The kinds of documents."""

from __future__ import annotations

from typing import Literal, get_args

Kind = Literal[
    "caption", "multi", "question", "referring", "segmentation", "story", "style", "decompose", "matched", "interleaved", "dialogue", "text"
]
KINDS: tuple[Kind, ...] = get_args(Kind)
COMPOSED_KINDS: tuple[Kind, ...] = ("caption", "multi", "question", "referring", "segmentation", "story", "style", "decompose")
"""Those of the built-in corpus."""

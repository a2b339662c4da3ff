"""The manifest's record of a curated sample (manifest.jsonl). No time and no cost is in it."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from components.data.documents import Document, Fact

VERSION = 1
COST_FACTS = ("cost_seconds", "cost_usd")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Block(_Frozen):
    """A text or a picture of the sample. `content` is the text, or the picture's path below the target."""

    type: Literal["text", "image"]
    role: Literal["global", "frame", "frame_caption", "diff"]
    content: str
    time_s: float | None = None
    filters: dict[str, float] = {}


class Round(_Frozen):
    """A round of self-reflection: the flaw that the critic named, empty where it was content, and the texts it had read."""

    critique: str
    texts: tuple[str, ...]


class Judged(_Frozen):
    """What the last judge said, 1 to 10. `independent`: it is not the model that wrote the texts."""

    judge: str
    judge_digest: str
    score: int
    independent: bool


class Record(_Frozen):
    """One sample. `levels`: of global, frame and cross captions, made, waiting or unavailable. `parent_ids`: sha256 of the video."""

    version: int = VERSION
    id: str
    route: Literal["video", "icg", "reflect", "open"] = "video"
    source: str
    licence: str
    global_text: str | None
    blocks: tuple[Block, ...]
    levels: dict[str, Literal["made", "waiting", "unavailable"]]
    rounds: tuple[Round, ...] = ()
    judge: Judged | None = None
    parent_ids: tuple[str, ...]
    tool_versions: dict[str, str]
    captioner: str | None = None
    captioner_digest: str | None = None
    document_sha256: str
    """Of the document's JSON without what it cost."""


def document_sha256(document: Document) -> str:
    """The digest of a document but for its costs, which differ from run to run."""
    values: dict[str, Any] = document.model_dump(mode="json")
    values["facts"] = without_costs(values["facts"])
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def without_costs(facts: dict[str, Fact]) -> dict[str, Fact]:
    """Facts that do not differ from run to run."""
    return {name: value for name, value in facts.items() if name not in COST_FACTS}

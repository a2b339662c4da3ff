"""The page of a replayed step: its documents with their pictures, texts and losses, and the gradient norm of each module."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from components.evaluation.html import environment
from components.replay import Replayed

SHOWN = 64
"""Documents on the page, the dearest first."""
_STEPS = 3
"""Steps whose numbers are listed although they are equal."""
_DEPTH = 2
_HOT = 4.0
"""A text loss, in nats, that is shown as high as any."""


@dataclass(frozen=True)
class Module:
    """Gradient norm of all parameters below a name, and of each of its parts; `share` is that of the squared norm of all."""

    name: str
    norm: float
    share: float
    parameters: int
    parts: tuple[tuple[str, float], ...]


def render(replayed: Replayed, shown: int = SHOWN) -> str:
    """One HTML file that needs no network."""
    pages = environment()
    pages.filters |= {"heat": heat, "exact": repr}
    documents = [{**document, "row": number, **_of(row)} for number, row in enumerate(replayed.rows) for document in row["documents"]]
    documents.sort(key=lambda one: -one["text_loss"] - one["image_loss"])
    compared = [one for one in replayed.compared if not one.equal or one.step > replayed.step - _STEPS]
    return pages.get_template("replay.html.j2").render(
        replay=replayed,
        compared=compared,
        modules=modules(replayed.norms),
        documents=documents[:shown],
        left_out=max(0, len(documents) - shown),
        rows=[_row(number, row) for number, row in enumerate(replayed.rows)],
    )


def modules(norms: Mapping[str, float]) -> list[Module]:
    """Parameters gathered by layer, else by the first parts of their names, in the order of the network."""
    total = sum(norm**2 for norm in norms.values()) or 1.0
    groups: dict[str, dict[str, float]] = {}
    for name, norm in norms.items():
        groups.setdefault(_module(name), {})[name] = norm
    found = []
    for name, own in groups.items():
        square = sum(norm**2 for norm in own.values())
        parts = tuple((each.removeprefix(f"{name}.") or each, norm) for each, norm in own.items())
        found.append(Module(name, math.sqrt(square), square / total, len(own), parts))
    return found


def heat(loss: float | None) -> str:
    """The CSS background of a token: the dearer, the redder; none where it is not trained."""
    return "transparent" if loss is None else f"color-mix(in srgb, var(--bad) {min(loss / _HOT, 1) * 60:.0f}%, transparent)"


def file_name(replayed: Replayed) -> str:
    """What the page is called where nobody says."""
    return str(PurePosixPath(f"replay-{replayed.run_id}-{replayed.stage.replace('@', '-')}-{replayed.step}.html"))


def _module(name: str) -> str:
    """The name up to its first number, which is that of a layer or a block."""
    parts = name.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[0] + 1] if numbers else parts[:_DEPTH])


def _of(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": row["name"], "rank": row["rank"]}


def _row(number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    documents: Sequence[Mapping[str, Any]] = row["documents"]
    sums = {key: sum(one[key] for one in documents) for key in ("text_loss", "targets", "image_loss", "pictures")}
    return {"number": number, **_of(row), "count": len(documents), **sums}

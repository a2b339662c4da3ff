"""The data card: what a data version holds, where it comes from and what was left out, as one HTML file that needs no network."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.data.card.histograms import Bin, histogram
from components.data.card.provenance import PROVENANCE_FILE, Provenance, Share
from components.data.card.samples import Sample, draw, load
from components.data.documents import SPLITS
from components.data.filters.funnel import FUNNEL_FILE
from components.data.index import QUARANTINE_FILE, Index, Row
from components.data.reader import DocumentReader
from components.evaluation.html import environment, png_uri

_REASONS = 12


@dataclass(frozen=True)
class Group:
    """Documents of one source, kind and split."""

    source: str
    kind: str
    split: str
    documents: int
    images: int
    tokens: int
    lengths: tuple[Bin, ...]
    image_counts: tuple[Bin, ...]
    widths: str


@dataclass(frozen=True)
class Card:
    """Everything the page shows."""

    title: str
    version: str
    tokenizer: str
    groups: tuple[Group, ...]
    shares: tuple[tuple[str, str, Share], ...]
    origins: tuple[tuple[str, Share], ...]
    funnel: tuple[dict[str, Any], ...]
    quarantined: int
    missing: int
    reasons: tuple[tuple[str, int], ...]
    samples: tuple[Sample, ...]


def make_card(index: Index, reader: DocumentReader, title: str, samples_per_group: int = 3) -> Card:
    """Read a data version's index, what `prepare` left beside it, and a few documents of every group."""
    groups, samples = [], []
    for split in SPLITS:
        for kind in index.kinds(split):
            by_source: dict[str, list[Row]] = {}
            for row in index.rows(split, kind):
                by_source.setdefault(row.source, []).append(row)
            for source, rows in sorted(by_source.items()):
                groups.append(_group(source, kind, split, rows))
                samples += load(index, reader, draw(rows, samples_per_group, f"{split}/{kind}/{source}"))
    provenance = Provenance()
    if (path := index.folder / PROVENANCE_FILE).is_file():
        provenance = Provenance.from_dict(json.loads(path.read_text(encoding="utf-8")))
    reasons, missing = _reasons(index.folder / QUARANTINE_FILE)
    return Card(
        title=title,
        version=index.sha256,
        tokenizer=index.tokenizer.sha256,
        groups=tuple(groups),
        shares=tuple((source, origin, share) for (source, origin), share in sorted(provenance.shares.items())),
        origins=_by_origin(provenance),
        funnel=_funnel(index.folder / FUNNEL_FILE),
        quarantined=reasons.total(),
        missing=missing,
        reasons=tuple(reasons.most_common(_REASONS)),
        samples=tuple(samples),
    )


def render(card: Card) -> str:
    """The page. Every text is escaped; pictures and styles are inside."""
    pages = environment()
    pages.filters |= {"png_uri": png_uri, "share": lambda part, whole: f"{100 * part / whole:.1f} %" if whole else "–"}
    return pages.get_template("card.html.j2").render(card=card)


def _group(source: str, kind: str, split: str, rows: Sequence[Row]) -> Group:
    sides = [side for row in rows for size in row.images for side in size]
    return Group(
        source=source,
        kind=kind,
        split=split,
        documents=len(rows),
        images=sum(len(row.images) for row in rows),
        tokens=sum(row.tokens for row in rows),
        lengths=tuple(histogram(row.tokens for row in rows)),
        image_counts=tuple(histogram(len(row.images) for row in rows)),
        widths=f"{min(sides)} to {max(sides)}" if sides else "–",
    )


def _by_origin(provenance: Provenance) -> tuple[tuple[str, Share], ...]:
    found: dict[str, Share] = {}
    for (_, origin), share in sorted(provenance.shares.items()):
        found.setdefault(origin, Share()).merge(share)
    return tuple(sorted(found.items()))


def _funnel(path: Path) -> tuple[dict[str, Any], ...]:
    """Rows {corpus, filter, documents_in, documents_dropped, images_in, images_dropped} in the order of the filters."""
    return tuple(json.loads(path.read_text(encoding="utf-8"))["rows"]) if path.is_file() else ()


def _reasons(path: Path) -> tuple[Counter[str], int]:
    """How often each reason was given, without what is particular to one document: numbers and quoted names; and how much is missing,
    for which no document is to blame."""
    counts: Counter[str] = Counter()
    missing = 0
    if path.is_file():
        with path.open(encoding="utf-8") as lines:
            for line in map(json.loads, lines):
                if line.get("missing"):
                    missing += 1
                else:
                    counts[_general(str(line["reason"]))] += 1
    return counts, missing


def _general(reason: str) -> str:
    return " ".join("…" if any(sign.isdigit() or sign in "/'\"" for sign in word) else word for word in reason.split())[:160]

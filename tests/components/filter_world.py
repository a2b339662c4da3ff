"""Small documents for the tests of filters, and preparation in miniature: what a part and the end of `prepare` do with the rules."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from components.data.documents import document_from
from components.data.filters.chain import Filters
from components.data.filters.funnel import Funnel
from components.data.filters.outcome import Dropped, Outcome, records
from components.data.filters.signatures import Signature, Signer
from components.data.filters.whole import whole_pass
from components.data.pictures import encode_png
from components.data.sources.source import Accepted, Limits, accept
from components.filter_params import FilterParams
from components.params import CorpusParams, DataParams

LIMITS = Limits(10_000_000, 1_000_000, 100)


def picture(seed: int, width: int = 16, height: int = 16) -> bytes:
    """A PNG of soft noise, another one for each seed."""
    rng = np.random.default_rng(seed)
    soft = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    return encode_png(np.asarray(soft))


def jpeg(image: Image.Image, quality: int = 85) -> bytes:
    """The picture as a JPEG."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def document(key: str, items: Sequence[str | tuple[bytes, Mapping[str, Any]]], kind: str = "matched", **more: Any) -> Accepted:
    """A text is a word string, a picture its bytes and facts."""
    images = [item[0] for item in items if not isinstance(item, str)]
    numbers = iter(range(len(images)))
    values = [
        {"type": "text", "text": item}
        if isinstance(item, str)
        else {"type": "image", "id": f"i{(number := next(numbers))}", "path": f"{number}.png", "loss": number % 2 == 0, "facts": item[1]}
        for item in items
    ]
    whole = {"id": key, "source": "web", "kind": kind, "split": "train", "licence": "CC0-1.0", "origin": "natural", "items": values}
    return accept(document_from(whole | more), images, LIMITS)


def pair(key: str, caption: str, image: bytes, facts: Mapping[str, Any] | None = None, **more: Any) -> Accepted:
    """A picture and its caption."""
    return document(key, [(image, facts or {}), caption], "caption", fields={"references": [caption]}, **more)


def corpus(name: str = "web", **rules: Any) -> CorpusParams:
    """A corpus with these rules."""
    return CorpusParams(name=name, format="documents", filters=FilterParams(**rules))


def judged(accepted: Accepted, **rules: Any) -> Outcome:
    """What these rules make of a document."""
    return Filters(corpus(**rules), 0, Path("nowhere")).apply(accepted)


@dataclass(frozen=True)
class Prepared:
    """Ids kept by corpus, lines of dropped.jsonl by corpus, and the funnel."""

    kept: dict[str, list[str]]
    dropped: dict[str, list[str]]
    funnel: Funnel


def prepare(data: DataParams, parts: Mapping[str, Iterable[Iterable[Accepted]]], folder: Path) -> Prepared:
    """Apply the rules of documents part by part, then those of the whole, as `prepare` does."""
    signer = Signer.of(data)
    kept: dict[str, list[str]] = {}
    dropped: dict[str, list[str]] = {}
    files: dict[str, list[Path]] = {}
    funnel = Funnel({}, {})
    for one in data.corpora:
        filters = Filters(one, 0, folder)
        funnel += filters.nothing
        for number, part in enumerate(parts[one.name]):
            signatures: list[Signature] = []
            for accepted in part:
                outcome = filters.apply(accepted)
                funnel += Funnel.of(one.name, outcome)
                dropped.setdefault(one.name, []).extend(map(json.dumps, records(outcome)))
                if not isinstance(outcome, Dropped):
                    kept.setdefault(one.name, []).append(outcome.accepted.document.id)
                    signatures.append(signer.signature(outcome.accepted))
            files.setdefault(one.name, []).append(folder / f"{one.name}-{number}.safetensors")
            signer.save(files[one.name][-1], signatures)
    whole = whole_pass(data, files, folder)
    names = {path: name for name, paths in files.items() for path in paths}
    for path, gone in whole.dropped.items():
        for lost in gone:
            kept[names[path]].remove(lost.id)
            dropped[names[path]].extend(map(json.dumps, records(lost)))
    sort = {name: sorted(ids) for name, ids in kept.items()}
    return Prepared(sort, {name: sorted(lines) for name, lines in dropped.items()}, funnel + whole.funnel)

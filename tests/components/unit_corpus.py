"""A corpus for tests of preparation: each *.unit file says what reading it does. Worker processes import it by name."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from components.data.documents import document_from
from components.data.pictures import encode_png
from components.data.sources.source import Accepted, Limits, Rejected, Unit, accept, document_id
from components.params import CorpusParams

READER = "unit_corpus:UnitCorpus"


def write_units(folder: Path, **units: object) -> None:
    """One file a unit: how many `documents`, from which number `first` on, with which `key` in their ids and which shade of `picture`, how
    many `seconds` each takes, whether every fifth is rejected (`rejects`), how many are `missing` and how many `wait` for a caption before
    them; or what else reading it `does`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in units.items():
        (folder / f"{name}.unit").write_text(json.dumps(values))


class UnitCorpus:
    def __init__(self, corpus: CorpusParams, folder: Path, limits: Limits) -> None:
        self._corpus, self._folder, self._limits = corpus, folder, limits

    def units(self) -> Sequence[Unit]:
        return [Unit(path.name, (path.name,)) for path in sorted(self._folder.glob("*.unit"))]

    def documents(self, unit: Unit) -> Iterator[Accepted | Rejected]:
        values = json.loads((self._folder / unit.name).read_text())
        match values.get("does"):
            case "crash":
                os._exit(3)
            case "raise":
                raise RuntimeError(f"cannot read {unit.name}")
            case "hang":
                re.match(r"(a+)+$", "a" * 64 + "!")  # years, in C, where no signal handler of Python ever runs
            case "full":
                raise OSError(28, "No space left on device", "somewhere")
            case "raise once":
                if not (tried := self._folder / "tried").exists():
                    tried.touch()
                    raise RuntimeError("only once")
        for number in range(values.get("missing", 0)):
            yield Rejected(f"{unit.name}:{number}", f"number {number} was not fetched", missing=True)
        for number in range(values.get("wait", 0)):
            yield self._document(f"{unit.name.removesuffix('.unit')}-waiting", number, 7, told=False)
        first = values.get("first", 0)
        for number in range(first, first + values.get("documents", 2)):
            time.sleep(values.get("seconds", 0))
            if number % 5 == 4 and values.get("rejects"):
                yield Rejected(f"{unit.name}:{number}", f"number {number} is not wanted")
                continue
            yield self._document(values.get("key", unit.name.removesuffix(".unit")), number, values.get("picture", 7))

    def notes(self, read: int) -> Sequence[str]:
        complete = self._corpus.options.get("complete", read)
        return [f"{read} records, the complete corpus has {complete}"] if read != complete else []

    def _document(self, key: str, number: int, shade: int, told: bool = True) -> Accepted:
        words = f"a picture of number {number} from {key} ."
        values = {
            "id": document_id(self._corpus.name, f"{key}-{number}"),
            "source": self._corpus.name,
            "kind": "caption",
            "split": "train" if number % 4 else "evaluation",
            "licence": "CC0-1.0",
            "origin": "human",
            "items": [{"type": "image", "id": "0", "path": "x.png"}, {"type": "text", "text": words}][: 1 + told],
            "prompt_items": 1,
            "fields": {"references": [words] if told else []},
        }
        picture = np.full((8 + number % 5, 16, 3), shade * (number + 1) % 251, np.uint8)
        return accept(document_from(values), [encode_png(picture)], self._limits)

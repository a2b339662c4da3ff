"""What the names of a mixture mean in an index: the documents of each that are packed together, and how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from components.data.documents import CorpusError
from components.data.index import Index
from components.data.measure import Measure
from components.data.selection import Documents, Listed, Selection
from components.data.window_packer import Rules, WindowPacker
from components.data.windows import Epochs
from components.mixing import is_drawn
from components.params import TrainParams
from components.progression.levels import bucket_of

_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Source:
    """Documents of one name of the mixture that are packed together: all, or those of one bucket of the levels.

    `excluded` counts those that fit in no row and cannot be cut; `tokens` of the others are only counted where there are levels.
    """

    name: str
    bucket: int | None
    documents: Documents
    epochs: Epochs
    packer: WindowPacker
    excluded: int
    tokens: int = 0

    @property
    def key(self) -> str:
        """What its draws and its place are called by."""
        return self.epochs.name

    @property
    def usable(self) -> bool:
        """Whether any document can be packed."""
        return self.excluded < len(self.documents)


@dataclass(frozen=True)
class Sources:
    """All sources of a mixture.

    By name, `excluded` counts documents that fit in no row and cannot be cut, `beyond` those above all levels.
    """

    sources: tuple[Source, ...]
    selections: Mapping[str, Selection]
    excluded: Mapping[str, int]
    beyond: Mapping[str, int]


def find_sources(index: Index, measure: Measure, train: TrainParams, window_documents: int, seed: int) -> Sources:
    """The sources of a stage's mixture. With levels each document's size is looked at once.

    Raises CorpusError for a name that means no training document, that shares some with another, or of which no document fits.
    """
    names = [name for name, weight in train.mixture.items() if is_drawn(weight)]
    selections = {name: _select(index, name) for name in names}
    _check_apart(selections)
    sources: list[Source] = []
    excluded: dict[str, int] = {}
    beyond: dict[str, int] = {}
    levels = len(train.progression.levels) if train.progression.mode != "none" else 0
    for name, selection in selections.items():
        packer = WindowPacker(measure, rules(train, train.max_images_per_row.get(name)))
        excluded[name] = _excluded(index, measure, packer, selection, train.row_tokens)
        if excluded[name] == len(selection):
            raise CorpusError(
                f"mixture.{name}: none of its {len(selection)} documents fits in a row of {train.row_tokens} tokens or can be cut; "
                f"enlarge row_tokens or set mixture.{name}=0"
            )
        if not levels:
            sources.append(Source(name, None, selection, Epochs(name, selection, window_documents, seed), packer, excluded[name]))
            continue
        *buckets, above = _buckets(selection, measure, train)
        beyond[name] = len(above)
        for number, documents in enumerate(buckets):
            lost, tokens = _unplaceable(packer, measure, documents)
            epochs = Epochs(f"{name}/{number}", documents, window_documents, seed)
            sources.append(Source(name, number, documents, epochs, packer, lost, tokens))
    if levels and not any(source.usable for source in sources if source.bucket == 0):
        raise CorpusError("progression.levels[0]: the mixture has no document so small that can be packed; raise its limits")
    return Sources(tuple(sources), selections, excluded, beyond)


def rules(train: TrainParams, max_images: int | None) -> Rules:
    """How documents become rows in a stage."""
    return Rules(train.row_tokens, train.packing, max_images, train.few_shot)


def _select(index: Index, name: str) -> Selection:
    selection = index.select("train", name)
    if not len(selection):
        known = ", ".join(index.names("train")) or "none"
        raise CorpusError(f"mixture.{name}: the corpus has no training documents of that name; there are {known}")
    return selection


def _check_apart(selections: Mapping[str, Selection]) -> None:
    owners: dict[int, str] = {}
    for name, selection in selections.items():
        for group in selection.groups:
            other = owners.setdefault(group.start, name)
            if other != name and group.documents:
                raise CorpusError(
                    f"mixture.{other} and mixture.{name} both name {group.source}/{group.kind}; a document belongs to one of them"
                )


def _excluded(index: Index, measure: Measure, packer: WindowPacker, selection: Selection, row_tokens: int) -> int:
    """Documents of a selection that fit in no row and cannot be cut. Only looked for where there can be any."""
    if not index.without_items and row_tokens >= measure.image_tokens + 2:
        return 0
    return sum(int(packer.unplaceable(part).sum()) for part in _parts(selection))


def _buckets(selection: Selection, measure: Measure, train: TrainParams) -> list[Listed]:
    """The documents of each level, and those above all."""
    levels = train.progression.levels
    found: list[list[np.ndarray]] = [[] for _ in range(len(levels) + 1)]
    for part in _parts(selection):
        buckets = bucket_of(measure.images(part), measure.lengths(part), levels)
        for number, own in enumerate(found):
            own.append(part[buckets == number].astype(np.uint32))
    return [Listed(np.concatenate(own)) for own in found]


def _unplaceable(packer: WindowPacker, measure: Measure, documents: Documents) -> tuple[int, int]:
    """How many documents cannot be packed, and how many tokens the others have."""
    lost = tokens = 0
    for part in _parts(documents):
        cannot = packer.unplaceable(part)
        lost += int(cannot.sum())
        tokens += int(measure.lengths(part)[~cannot].sum())
    return lost, tokens


def _parts(documents: Documents) -> Iterator[np.ndarray]:
    for start in range(0, len(documents), _AT_ONCE):
        yield documents[np.arange(start, min(start + _AT_ONCE, len(documents)))]

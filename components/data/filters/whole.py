"""The rules that need all documents: decontamination, then duplicates, over the signatures that preparation wrote part by part."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np

from components.data.documents import CorpusError
from components.data.filters.contamination import Protected
from components.data.filters.duplicates import Reasons, exact_duplicates, near_duplicates
from components.data.filters.funnel import Funnel
from components.data.filters.outcome import Dropped
from components.data.filters.signatures import Signatures, Signer
from components.params import CorpusParams, DataParams

Gone = Mapping[Path, Collection[str]]
_NONE: Gone = MappingProxyType({})
_Rule = Callable[[Signatures, np.ndarray], Reasons]


@dataclass(frozen=True)
class WholePass:
    """What is dropped, by the file that has its signature, in order of ids; and the counts, to be added to those of the parts."""

    dropped: Mapping[Path, tuple[Dropped, ...]]
    funnel: Funnel


def wants_signatures(data: DataParams, corpus: CorpusParams) -> bool:
    """Whether signatures of the corpus's documents are needed at all."""
    return corpus.filters.compare_documents or data.decontamination.wanted


def whole_pass(data: DataParams, files: Mapping[str, Sequence[Path]], folder: Path, gone: Gone = _NONE) -> WholePass:
    """Judge all training documents of the corpora whose files of signatures are given by name; `folder` is data/input.

    `gone` has ids that left a file for another reason. The same documents give the same result in whatever parts and order they come. It
    holds the evaluation sets and the hashes of one corpus at a time. Raises CorpusError for a file that is none and for a protected
    corpus without evaluation documents.
    """
    signer = Signer.of(data)
    protected = _protected(data, signer, files, folder)
    dropped: dict[Path, tuple[Dropped, ...]] = {}
    funnel = Funnel({}, {})
    for corpus in data.corpora:
        if wants_signatures(data, corpus):
            own = files.get(corpus.name, ())
            found = _judge(corpus, dict(_rules(data, corpus, signer, own, protected)), {path: signer.load(path) for path in own}, gone)
            dropped |= found.dropped
            funnel += found.funnel
    return WholePass(dropped, funnel)


def _judge(corpus: CorpusParams, rules: Mapping[str, _Rule], parts: Mapping[Path, Signatures], gone: Gone) -> WholePass:
    signatures = Signatures.concatenated(list(parts.values()))
    owners = [path for path, part in parts.items() for _ in range(len(part))]
    training = np.flatnonzero(signatures.evaluation == 0).tolist()
    rows = np.array([row for row in training if signatures.id(row) not in gone.get(owners[row], ())], np.int64)
    dropped: dict[Path, list[Dropped]] = {}
    funnel = Funnel({}, Funnel.empty(corpus.name, rules).dropped)
    for name, rule in rules.items():
        reasons = rule(signatures, rows)
        rows = np.setdiff1d(rows, np.fromiter(reasons, np.int64, len(reasons)))
        for row, reason in reasons.items():
            one = Dropped(signatures.id(row), name, reason, len(signatures.images_of(row)))
            dropped.setdefault(owners[row], []).append(one)
            funnel += Funnel.taken(corpus.name, one)
    return WholePass({path: tuple(sorted(found, key=lambda one: one.id)) for path, found in dropped.items()}, funnel)


def _rules(
    data: DataParams, corpus: CorpusParams, signer: Signer, files: Sequence[Path], protected: Protected | None
) -> Iterator[tuple[str, _Rule]]:
    """Those that are on. What is contaminated goes first, so that no twin of it is kept for it."""
    rules = corpus.filters
    if protected is not None:
        parts = partial(map, partial(signer.load, with_grams=True), files)
        yield "contamination", lambda signatures, rows: protected.contaminated(signatures, rows, parts(), data.decontamination.image_bits)
    if rules.exact_duplicates:
        yield "exact_duplicate", exact_duplicates
    if (bits := rules.near_duplicate_bits) is not None:
        yield (
            "near_duplicate",
            partial(near_duplicates, bits=bits, share=rules.near_duplicate_share, same_text=rules.near_duplicate_same_text),
        )


def _protected(data: DataParams, signer: Signer, files: Mapping[str, Sequence[Path]], folder: Path) -> Protected | None:
    rules = data.decontamination
    if not rules.wanted:
        return None
    sets: list[tuple[str, Signatures]] = []
    for name in rules.corpora:
        parts = [signer.load(path, with_grams=True) for path in files.get(name, ())]
        if not any(part.evaluation.any() for part in parts):
            raise CorpusError(f"data.decontamination.corpora names {name}, which has no evaluation documents")
        sets += [(name, part) for part in parts]
    for name in rules.files:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise CorpusError(f"data.decontamination.files: {name} leads out of data/input")
        elsewhere = signer.load(path, with_grams=True)
        if not elsewhere.evaluation.any():
            raise CorpusError(f"data.decontamination.files names {name}, which has no evaluation documents")
        sets.append((Path(name).stem, elsewhere))
    return Protected(sets, rules.common_documents)

"""Documents that a corpus has twice. Of two the one with the lower id stays, in whatever order and parts they were prepared."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from components.data.filters.hamming import pairs_among
from components.data.filters.signatures import Signatures

Reasons = dict[int, str]
"""Why a document is dropped, by its row."""


def exact_duplicates(signatures: Signatures, rows: np.ndarray) -> Reasons:
    """Those of `rows` whose texts and pictures are those of another, byte for byte."""
    first: dict[bytes, int] = {}
    reasons: Reasons = {}
    for row in _by_id(signatures, rows):
        twin = first.setdefault(signatures.content[row].tobytes(), row)
        if twin != row:
            reasons[row] = f"the same texts and pictures as {signatures.id(twin)}"
    return reasons


def near_duplicates(signatures: Signatures, rows: np.ndarray, bits: int, share: float = 1.0, same_text: bool = False) -> Reasons:
    """Those of `rows` of whose pictures at least `share` are also in kept documents of lower id, up to `bits` of their hashes.

    A dropped document always has a kept twin: likeness is not passed on from a document that is dropped itself.
    """
    chosen = np.zeros(len(signatures), bool)
    chosen[rows] = True
    hashes, images = np.unique(signatures.images[np.repeat(chosen, signatures.image_counts())], return_inverse=True)
    near = _Neighbours(hashes, bits)
    starts = np.cumsum([0, *np.where(chosen, signatures.image_counts(), 0).tolist()])
    owners: dict[tuple[int, int], int] = {}
    reasons: Reasons = {}
    for row in _by_id(signatures, rows):
        words = int(signatures.words[row]) if same_text else 0
        places = images[starts[row] : starts[row + 1]].tolist()
        twins = [next(((like, owners[like, words]) for like in near.of(place) if (like, words) in owners), None) for place in places]
        found = [(number, *twin) for number, twin in enumerate(twins) if twin is not None]
        if found and len(found) >= share * len(places):
            number, like, twin = found[0]
            bits_apart = int(np.bitwise_count(hashes[places[number]] ^ hashes[like]))
            what = f"image {number} is {bits_apart} bits from one of {signatures.id(twin)}"
            reasons[row] = f"{len(found)} of {len(places)} images are in other documents: {what}"
            continue
        for place in places:
            owners.setdefault((place, words), row)
    return reasons


class _Neighbours:
    """Which hashes are near which, as lists of places behind each other."""

    def __init__(self, hashes: np.ndarray, bits: int) -> None:
        one, two = pairs_among(hashes, bits)
        source, target = np.concatenate([one, two]), np.concatenate([two, one])
        order = np.lexsort((target, source))
        self._targets = target[order]
        self._starts = np.searchsorted(source[order], np.arange(len(hashes) + 1))

    def of(self, place: int) -> Iterator[int]:
        """The hash itself, then its neighbours."""
        yield place
        yield from self._targets[self._starts[place] : self._starts[place + 1]].tolist()


def _by_id(signatures: Signatures, rows: np.ndarray) -> list[int]:
    return sorted(rows.tolist(), key=signatures.id)

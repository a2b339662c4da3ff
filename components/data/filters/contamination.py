"""Training documents that show a picture or tell a text of an evaluation set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from components.data.filters.duplicates import Reasons
from components.data.filters.hamming import pairs_between
from components.data.filters.signatures import Signatures


class Protected:
    """The evaluation documents of some sets, by name of the set; small enough to be held while training documents pass by."""

    def __init__(self, sets: Sequence[tuple[str, Signatures]], common_documents: int) -> None:
        """Only documents for evaluation count. Hashes of words in more than `common_documents` of them are a template and left out."""
        found = [(name, signatures, row) for name, signatures in sets for row in np.flatnonzero(signatures.evaluation).tolist()]
        found.sort(key=lambda one: (one[0], one[1].id(one[2])))
        self._names = [f"{name}/{signatures.id(row)}" for name, signatures, row in found]
        self._images, self._image_owners, _ = _owned([signatures.images_of(row) for _, signatures, row in found])
        grams, owners, counts = _owned([signatures.grams_of(row) for _, signatures, row in found])
        rare = counts <= common_documents
        self._grams, self._gram_owners = grams[rare], owners[rare]

    def contaminated(self, signatures: Signatures, rows: np.ndarray, parts: Iterable[Signatures], bits: int) -> Reasons:
        """Those of `rows` that share a picture or words with a protected document, and with which.

        `parts` are the same documents with their words, one after the other, for those of all are too many to hold.
        """
        reasons = self._shown(signatures, bits)
        before = 0
        for part in parts:
            for row, reason in self._told(part).items():
                reasons.setdefault(before + row, reason)
            before += len(part)
        return {row: reasons[row] for row in rows.tolist() if row in reasons}

    def _shown(self, signatures: Signatures, bits: int) -> Reasons:
        """Documents with a picture within `bits` of a protected one."""
        hashes, places = np.unique(signatures.images, return_inverse=True)
        left, right = pairs_between(hashes, self._images, bits)
        twins = dict(zip(left[::-1].tolist(), right[::-1].tolist(), strict=True))
        owners = np.repeat(np.arange(len(signatures)), signatures.image_counts()).tolist()
        reasons: Reasons = {}
        for image in np.flatnonzero(np.isin(places, left)).tolist():
            row, twin = owners[image], twins[int(places[image])]
            apart = int(np.bitwise_count(signatures.images[image] ^ self._images[twin]))
            number = image - int(signatures.image_starts[row])
            reasons.setdefault(row, f"image {number} is {apart} bits from one of {self._names[self._image_owners[twin]]}")
        return reasons

    def _told(self, part: Signatures) -> Reasons:
        """Documents with the words of a protected text."""
        owners = np.repeat(np.arange(len(part)), np.diff(part.gram_starts)).tolist()
        reasons: Reasons = {}
        for place in np.flatnonzero(np.isin(part.grams, self._grams)).tolist():
            twin = int(np.searchsorted(self._grams, part.grams[place]))
            reasons.setdefault(owners[place], f"has words of {self._names[self._gram_owners[twin]]}")
        return reasons


def _owned(values: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct values in ascending order, the number of the first owner of each, and how many own it."""
    distinct = [np.unique(one) for one in values]
    together = np.concatenate([np.zeros(0, np.uint64), *distinct])
    owners = np.repeat(np.arange(len(values)), [len(one) for one in distinct])
    found, first, counts = np.unique(together, return_index=True, return_counts=True)
    return found, owners[first], counts

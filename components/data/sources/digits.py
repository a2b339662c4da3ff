"""The built-in corpus: scikit-learn's 1,797 scanned handwritten digits, composed into documents of every kind.

The scans are the UCI "Optical Recognition of Handwritten Digits" test set (E. Alpaydin, C. Kaynak, CC BY 4.0), 8x8 pixels of 0..16.
They are split by scan: no scan of the evaluation split is ever in a training picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np

from components.data.documents import CorpusError, Document, Split
from components.data.keyed import generator
from components.data.sources.ink import Press
from components.data.sources.kinds import Compose, Draft, caption, decompose, multi, question, referring, segmentation
from components.data.sources.stock import Stock
from components.data.sources.tales import story, style
from components.params import COMPOSED_KINDS, DataParams, Kind

LICENCE = "CC-BY-4.0"
_COMPOSERS: dict[Kind, Compose] = {
    "caption": caption,
    "multi": multi,
    "question": question,
    "referring": referring,
    "segmentation": segmentation,
    "story": story,
    "style": style,
    "decompose": decompose,
}
_README = """# Scanned handwritten digits

scans.npy: uint8 [1797, 8, 8], ink 0 to 16. labels.npy: uint8 [1797], 0 to 9.
Written from scikit-learn's `load_digits`: the test set of "Optical Recognition of Handwritten Digits",
E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0.
"""


def export_digits(folder: Path) -> None:
    """Write scans.npy, labels.npy and README.md of the scans that scikit-learn carries; the same bytes each time.

    Its file is read as `load_digits` reads it: importing scikit-learn for that takes longer than all the rest of `version`.
    """
    rows = np.loadtxt(str(distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")), delimiter=",")
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "scans.npy", rows[:, :-1].reshape(-1, 8, 8).astype(np.uint8), allow_pickle=False)
    np.save(folder / "labels.npy", rows[:, -1].astype(np.uint8), allow_pickle=False)
    (folder / "README.md").write_text(_README, encoding="utf-8")


def load_scans(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Scans uint8 [n, 8, 8] of 0..16 and labels int64 [n] of 0..9. Raises CorpusError for anything else."""
    try:
        scans, labels = (np.load(folder / name, allow_pickle=False) for name in ("scans.npy", "labels.npy"))
    except (OSError, ValueError, EOFError) as error:
        raise CorpusError(f"{folder}: scans.npy and labels.npy cannot be read ({error}); run `python -m components.version`") from None
    if scans.ndim != 3 or scans.shape[1:] != (8, 8) or labels.shape != scans.shape[:1]:
        raise CorpusError(f"{folder}: expected scans [n, 8, 8] and labels [n], got {list(scans.shape)} and {list(labels.shape)}")
    if not (np.isfinite(scans).all() and scans.min() >= 0 and scans.max() <= 16 and np.isin(labels, range(10)).all()):
        raise CorpusError(f"{folder}: scans must be finite and in 0..16, labels in 0..9")
    if np.bincount(labels.astype(np.int64), minlength=10).min() < 2:
        raise CorpusError(f"{folder}: every digit needs at least two scans, one to train on and one to hold out")
    return scans.astype(np.uint8), labels.astype(np.int64)


def split_scans(labels: np.ndarray, held_out_fraction: float, seed: int) -> dict[Split, np.ndarray]:
    """Indexes of the scans of each split, the same share of every digit; disjoint and together all."""
    held_out: list[np.ndarray] = []
    for digit in range(10):
        scans = np.flatnonzero(labels == digit)
        count = min(len(scans) - 1, max(1, round(held_out_fraction * len(scans))))
        held_out.append(generator(seed, "split", digit).permutation(scans)[:count])
    evaluation = np.sort(np.concatenate(held_out))
    return {"train": np.setdiff1d(np.arange(len(labels)), evaluation), "evaluation": evaluation}


class Composer:
    """Composes the documents of one split; those of a kind do not depend on the others, nor document n on how many there are."""

    def __init__(self, data: DataParams, seed: int, scans: np.ndarray, labels: np.ndarray, split: Split) -> None:
        press = Press(scans, data.image_px, generator(seed, "noise", split))
        self._stock = Stock(labels, split_scans(labels, data.held_out_fraction, seed)[split], press)
        self._counts = data.documents if split == "train" else data.evaluation_documents
        self._seed = seed
        self._split: Split = split

    def documents(self, kind: Kind) -> Iterator[tuple[Document, list[np.ndarray]]]:
        """Documents of a kind with their pictures (uint8 [px, px, 3])."""
        for number in range(self._counts.get(kind, 0)):
            draft = Draft(f"{self._split}-{kind}-{number:06d}")
            _COMPOSERS[kind](draft, self._stock, generator(self._seed, "compose", self._split, kind, number), self._split)
            yield _document(draft, kind, self._split), draft.pictures


def compose(
    data: DataParams, seed: int, scans: np.ndarray, labels: np.ndarray, split: Split
) -> Iterator[tuple[Document, list[np.ndarray]]]:
    """Documents of a split with their pictures (uint8 [px, px, 3]), kind by kind."""
    composer = Composer(data, seed, scans, labels, split)
    for kind in COMPOSED_KINDS:
        yield from composer.documents(kind)


def drawn(document: Document) -> list[list[dict[str, Any]]]:
    """What is drawn in each picture of a composed document, in item order: {digit, colour, box, place, scan}, boxes in pixels."""
    return [scene["digits"] for scene in document.fields["scenes"]]


def _document(draft: Draft, kind: Kind, split: Split) -> Document:
    return Document.model_validate(
        {
            "id": draft.key,
            "source": "digits",
            "kind": kind,
            "split": split,
            "licence": LICENCE,
            "origin": "automated",
            "items": draft.items,
            "prompt_items": draft.prompt_items,
            "fields": draft.fields | {"scenes": draft.scenes},
        }
    )

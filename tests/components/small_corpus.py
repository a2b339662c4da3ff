"""A small prepared corpus of the built-in kind, made by the stage's body."""

from __future__ import annotations

import shutil
from pathlib import Path

from preparation_world import run

from components.data.sources.digits import export_digits
from components.params import COMPOSED_KINDS, DataParams


def make_corpus(root: Path, documents: int = 30, shard_documents: int = 10) -> None:
    """`root`/index and `root`/shards of so many training documents of each kind."""
    (root / "data/input/digits").mkdir(parents=True)
    export_digits(root / "data/input/digits")
    counts = {"documents": dict.fromkeys(COMPOSED_KINDS, documents), "evaluation_documents": dict.fromkeys(COMPOSED_KINDS, 2)}
    run(root, DataParams(**counts, shard_documents=shard_documents, vocabulary_size=400))
    for name in ("index", "shards"):
        shutil.move(root / "outputs" / name, root / name)

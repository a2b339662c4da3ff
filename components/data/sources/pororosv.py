"""PororoSV: stories of five clips of a cartoon, in the form that its published files are converted to.

    stories.json  {"train": [{"id", "frames": [{"image": "Pororo_ENGLISH1_1/Pororo_ENGLISH1_1_ep1/12.png", "caption"}]}], "val", "test"}

A picture is the published strip of 128x128 frames. PororoSV is published as .npy files of Python objects (descriptions.npy,
train_seen_unseen_ids.npy) beside lists of names (img_cache4.npy, following_cache4.npy): NumPy reads objects by pickle, which can run any
code, and they are not opened here. docs/corpora.md has a script that writes stories.json, for a machine where they may be trusted.

Sources: OpenGVLab/MM-Interleaved (pororo.py), adymaharana/storydalle. Counts: appendix B.2 of the paper.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.data.sources.annotated import AnnotatedSource, Draft, Keyed, Mine, Shelf, keyed, open_set
from components.data.sources.hostile_values import identifier, record, text
from components.data.sources.published import Phase, Published
from components.data.sources.source import Limits, Rejected
from components.data.sources.story_strips import opened_unpickled, strip_story
from components.data.sources.values import list_of
from components.params import CorpusParams

CHARACTERS = ("Pororo", "Loopy", "Eddy", "Harry", "Poby", "Tongtong", "Crong", "Rody", "Petty")
PORORO_SV = Published(
    {phase: Phase(("stories.json",), "", count) for phase, count in (("train", 10_191), ("val", 2_334), ("test", 2_208))},
    evaluation="test",
    train="train",
)


def pororosv(corpus: CorpusParams, folder: Path, limits: Limits) -> AnnotatedSource:
    """Format `pororosv`."""
    return opened_unpickled(
        corpus, folder, "descriptions.npy", "stories.json", lambda: open_set(corpus, folder, limits, PORORO_SV, lambda _: Pororo())
    )


class Pororo:
    """A Form: stories.json."""

    def records(self, shelf: Shelf, mine: Mine) -> Iterator[Keyed | Rejected]:
        """The stories of the phase."""
        yield from keyed(shelf.elements(shelf.phase.files[0], shelf.name), lambda one: identifier(record(one), "id"), mine)

    def draft(self, values: Any, shelf: Shelf) -> Draft:
        """The story; at evaluation its first picture is given."""
        frames = [record(frame, "a frame") for frame in list_of(values, "frames")]
        return strip_story(identifier(values, "id"), [(text(one, "image"), text(one, "caption")) for one in frames], CHARACTERS, shelf)

"""FlintstonesSV: stories of five clips of a cartoon.

    train-val-test_split.json          {"train": [ID], "val", "test"}
    flintstones_annotations_v1-0.json  [{"globalID", "description"}]
    following_cache4.json              {ID: [the 4 ids that follow]}
    video_frames_sampled_png/{ID}.png  a strip of 128x128 frames

following_cache4 is published as a pickle (.pkl), which can run any code when it is opened, and is not opened here. docs/corpora.md has a
script that writes the .json from it, for a machine where it may be trusted.

Sources: OpenGVLab/MM-Interleaved (flintstones.py), adymaharana/storydalle. Counts: appendix B.2 of the paper.
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
from components.params import CorpusParams

FOLLOWERS = 4
CHARACTERS = ("Fred", "Barney", "Wilma", "Betty", "Pebbles", "Dino", "Slate")
_FILES = ("train-val-test_split.json", "flintstones_annotations_v1-0.json", "following_cache4.json")
FLINTSTONES_SV = Published(
    {phase: Phase(_FILES, "video_frames_sampled_png", count) for phase, count in (("train", 20_132), ("val", 2_071), ("test", 2_309))},
    evaluation="test",
    train="train",
)


def flintstonessv(corpus: CorpusParams, folder: Path, limits: Limits) -> AnnotatedSource:
    """Format `flintstonessv`."""
    return opened_unpickled(
        corpus,
        folder,
        "following_cache4.pkl",
        "following_cache4.json",
        lambda: open_set(corpus, folder, limits, FLINTSTONES_SV, lambda _: Flintstones()),
    )


class Flintstones:
    """A Form: clips of a split with the four that follow each, and their descriptions."""

    def records(self, shelf: Shelf, mine: Mine) -> Iterator[Keyed | Rejected]:
        """The clips of the split that begin a story. One without four followers begins none, as in the release; it is no record."""
        split, annotations, following = shelf.phase.files
        told: dict[str, Any] = {}
        for found in keyed(shelf.elements(annotations), lambda one: identifier(record(one), "globalID"), lambda _: True):
            if isinstance(found, Rejected):
                yield found
            elif found.key in told:
                yield Rejected(found.where, f"globalID {found.key} was used before")
            else:
                told[str(found.key)] = found.values.get("description")
        followers: dict[str, list[Any]] = {}
        for element in shelf.elements(following):
            if isinstance(element, Rejected):
                yield element
            elif not isinstance(element.value, list):
                yield Rejected(element.where, "the followers are no list")
            elif len(element.value) == FOLLOWERS:
                followers[str(element.key)] = element.value
        for found in keyed(shelf.elements(split, shelf.name), lambda one: identifier({"id": one}, "id"), mine):
            if isinstance(found, Rejected):
                yield found
            elif found.key in followers:
                clips = [found.key, *followers[str(found.key)]]
                yield Keyed(found.where, found.key, [(clip, told.get(clip) if isinstance(clip, str) else None) for clip in clips])

    def draft(self, values: Any, shelf: Shelf) -> Draft:
        """The story; at evaluation its first picture is given."""
        frames = []
        for clip, told in values:
            name = identifier({"clip": clip}, "clip")
            description = f"description of {name}"
            frames.append((f"{name}.png", text({description: told}, description)))
        return strip_story(values[0][0], frames, CHARACTERS, shelf)

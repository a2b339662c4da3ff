"""VIST: stories of five photographs and sentences.

    annotations/{train,val,test}_formatted_filtered.json  {"annotations": {STORY: [{"sequence_index", "image_id", "caption"}]}}, the
        release's form; or as published
    annotations/{train,val,test}.story-in-sequence.json   {"annotations": [[{"story_id", "photo_flickr_id", "worker_arrangement_order",
        "text"}]]}, a list of one for each turn
    images/{phase}_images/{image_id}.png or .jpg

Sources: OpenGVLab/MM-Interleaved (vist.py), visionandlanguage.net/VIST. Counts: appendix B.2 of the paper, rounded there to
34k and 5k; those of the published files, which hold stories with lost photographs, are not checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from components.data.documents import DocumentError
from components.data.sources.annotated import AnnotatedSource, Draft, Keyed, Mine, Shelf, keyed, open_set
from components.data.sources.hostile_values import identifier, record, text, whole
from components.data.sources.published import Phase, Published, SetOptions, found_form
from components.data.sources.source import Limits, Rejected, read_options
from components.data.sources.story_strips import story_draft
from components.params import CorpusParams

_COUNTS = (("train", 34_000), ("val", 5_000), ("test", None))
VIST = Published(
    {
        phase: Phase((f"annotations/{phase}_formatted_filtered.json",), f"images/{phase}_images", count, within=500)
        for phase, count in _COUNTS
    },
    evaluation="val",
    train="train",
)
VIST_PUBLISHED = Published(
    {phase: Phase((f"annotations/{phase}.story-in-sequence.json",), f"images/{phase}_images") for phase, _ in _COUNTS},
    evaluation="val",
    train="train",
)


def vist(corpus: CorpusParams, folder: Path, limits: Limits) -> AnnotatedSource:
    """Format `vist`."""
    options = read_options(SetOptions, corpus)
    if found_form(corpus, folder, options, VIST, VIST_PUBLISHED) is VIST_PUBLISHED:
        return open_set(corpus, folder, limits, VIST_PUBLISHED, lambda _: VistTurns(_in_sequence), options)
    return open_set(corpus, folder, limits, VIST, lambda _: VistStories(_filtered), options)


class VistStories:
    """A Form: stories of turns. `turn` reads one: its place in the story, picture and sentence."""

    def __init__(self, turn: Callable[[Any], tuple[int, str, str]]) -> None:
        self._turn = turn

    def records(self, shelf: Shelf, mine: Mine) -> Iterator[Keyed | Rejected]:
        """All stories, which are the values of an object."""
        for element in shelf.elements(shelf.phase.files[0], "annotations"):
            if isinstance(element, Rejected):
                yield element
            elif mine(str(element.key)):
                yield Keyed(element.where, str(element.key), element.value)

    def draft(self, values: Any, shelf: Shelf) -> Draft:
        """The story; at evaluation all but its last picture is given."""
        if not isinstance(values, list):
            raise DocumentError("the story is no list of turns")
        turns = sorted(self._turn(turn) for turn in values)
        if len({place for place, _, _ in turns}) < len(turns):
            raise DocumentError("two turns have the same place in the story")
        loaded = [shelf.first_picture(f"{image}.png", f"{image}.jpg", number=number) for number, (_, image, _) in enumerate(turns)]
        return story_draft([caption for _, _, caption in turns], loaded, given=len(turns) - 1)


class VistTurns(VistStories):
    """A Form: turns of all stories in one list, each alone in a list of its own, which are put together."""

    def records(self, shelf: Shelf, mine: Mine) -> Iterator[Keyed | Rejected]:
        """All stories in the order of their first turns."""
        stories: dict[str, tuple[str, list[Any]]] = {}
        for found in keyed(shelf.elements(shelf.phase.files[0], "annotations"), _story_id, mine):
            if isinstance(found, Rejected):
                yield found
            else:
                stories.setdefault(str(found.key), (found.where, []))[1].append(found.values[0])
        for key, (where, turns) in stories.items():
            yield Keyed(where, key, turns)


def _filtered(turn: Any) -> tuple[int, str, str]:
    values = record(turn, "a turn")
    return whole(values, "sequence_index", 0, 1_000_000), identifier(values, "image_id"), text(values, "caption")


def _in_sequence(turn: Any) -> tuple[int, str, str]:
    values = record(turn, "a turn")
    return whole(values, "worker_arrangement_order", 0, 1_000_000), identifier(values, "photo_flickr_id"), text(values, "text")


def _story_id(value: Any) -> str:
    if not isinstance(value, list) or len(value) != 1:
        raise DocumentError("it is no list of one turn")
    return identifier(record(value[0], "a turn"), "story_id")

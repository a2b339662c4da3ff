"""Picture stories: captions and pictures in turn, all pictures trained; and the strips of frames in which two of the sets keep pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from components.data import templates
from components.data.documents import CorpusError, DocumentError, ImageItem
from components.data.keyed import generator
from components.data.pictures import decode, encode_png
from components.data.sources.annotated import AnnotatedSource, Draft, Shelf
from components.data.sources.source import Limits
from components.params import CorpusParams

FRAME_PX = 128
"""Side of a frame. A file of PororoSV or FlintstonesSV is a strip: frames of one clip below each other."""


def story_draft(captions: Sequence[str], loaded: Sequence[tuple[ImageItem, bytes]], given: int) -> Draft:
    """The document of a story whose first `given` pictures are given at evaluation. Raises DocumentError for less than two pictures."""
    if len(captions) < 2:
        raise DocumentError(f"a story of {len(captions)} pictures; there are two at least")
    items, prompt = templates.story(list(zip(captions, (item for item, _ in loaded), strict=True)), given_pictures=given)
    return Draft("story", items, prompt, [data for _, data in loaded], {"captions": list(captions)})


def strip_story(key: str, frames: Sequence[tuple[str, str]], names: Sequence[str], shelf: Shelf) -> Draft:
    """A story of (strip, caption), of each strip one frame; at evaluation the first picture is given. Captions are lower-cased but for
    the names of the characters, as the release does."""
    drawn: list[int] = []
    loaded: list[tuple[ImageItem, bytes]] = []
    for number, (name, _) in enumerate(frames):
        item, strip = shelf.picture(name, number)
        data, frame = _frame(strip, item.path, shelf.limits, key, number)
        loaded.append((item, data))
        drawn.append(frame)
    draft = story_draft([_with_names(caption, names) for _, caption in frames], loaded, given=1)
    draft.fields["drawn_frames"] = drawn
    return draft


def opened_unpickled(
    corpus: CorpusParams, folder: Path, pickled: str, wanted: str, opened: Callable[[], AnnotatedSource]
) -> AnnotatedSource:
    """What `opened` gives. Where it fails because only `pickled` is there and not what it is converted to, the error says so."""
    try:
        return opened()
    except CorpusError:
        if not (folder / pickled).exists() or (folder / wanted).exists():
            raise
        raise CorpusError(
            f"corpus {corpus.name}: {pickled} holds pickled Python objects, which can run any code when they are opened, and is not read; "
            f"write {wanted} from it where it may be trusted (docs/corpora.md has the script)"
        ) from None


def _frame(strip: bytes, name: str, limits: Limits, *key: str | int) -> tuple[bytes, int]:
    """One frame of a strip, as PNG, and its number: drawn by the key, so that the reference pictures are the same in every run."""
    picture = decode(strip, limits.image_pixels)
    height, width, _ = picture.shape
    if width != FRAME_PX or height % FRAME_PX:
        raise DocumentError(f"{name} has {width}x{height} pixels; a strip has frames of {FRAME_PX}x{FRAME_PX} below each other")
    frame = int(generator("frame of a strip", *key).integers(height // FRAME_PX))
    return encode_png(picture[frame * FRAME_PX : (frame + 1) * FRAME_PX]), frame


def _with_names(caption: str, names: Sequence[str]) -> str:
    """The caption on one line, lower-cased but for the names."""
    lowered = " ".join(caption.lower().split())
    for name in names:
        lowered = re.sub(rf"\b{name.lower()}", name, lowered)
    return lowered

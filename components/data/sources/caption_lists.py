"""What sets of captioned pictures share: the document of a picture with its captions, and of a caption whose picture is generated.

To train on, a caption is the answer to the paper's instruction (kind `question`, so that the picture stays before it); to evaluate, a
picture has all its captions as references (kind `caption`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from components.data import templates
from components.data.documents import ImageItem
from components.data.sources.annotated import Draft, Shelf
from components.data.sources.published import SetOptions


class CaptionOptions(SetOptions):
    """How captions are put."""

    prompt: Literal["finetuned", "zero_shot"] = Field("finetuned", description="which of the two prompts of Table 17")
    lower_case: bool = Field(False, description="lower-case the caption that is trained or given, as the release does for COCO")


class LowerCaptionOptions(CaptionOptions):
    """Of the sets whose captions the release lower-cases."""

    lower_case: bool = Field(True, description="lower-case the caption that is trained or given, as the release does for COCO")


def captioned(
    shelf: Shelf,
    picture: tuple[ImageItem, bytes],
    captions: Sequence[str],
    options: CaptionOptions,
    *,
    length: templates.Length = "short",
    licence: str | None = None,
) -> Draft:
    """A picture and its captions, of which the first is the answer."""
    item, data = picture
    answer = captions[0].lower() if options.lower_case else captions[0]
    finetuned = options.prompt == "finetuned"
    items, given = templates.caption(item, answer, length=length, finetuned=finetuned)
    fields = {"references": list(captions)}
    if shelf.split == "evaluation":
        return Draft("caption", items, given, [data], fields, licence=licence)
    instruction = templates.CAPTION[length, finetuned]
    return Draft("question", items, given, [data], fields | {"question": instruction, "answer": answer}, licence=licence)


def drawn(picture: tuple[ImageItem, bytes], caption: str, options: CaptionOptions, *, licence: str | None = None) -> Draft:
    """A caption whose picture is generated: kind `interleaved`, which is never swapped and never scored as a caption."""
    item, data = picture
    items, given = templates.text_to_image(caption.lower() if options.lower_case else caption, item)
    return Draft("interleaved", items, given, [data], {"references": [caption], "task": "text_to_image"}, licence=licence)

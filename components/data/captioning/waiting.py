"""Which documents a caption belongs into, and what they are with it. Pure; no file and no model."""

from __future__ import annotations

from components.data.documents import Document, Facts, ImageItem, TextItem

WAITING = "it waits for a caption; run `mmfs data caption`, then read the corpus by format `captioned`"


def waits(document: Document, replace: bool) -> bool:
    """Whether it is to be captioned: no text and `fields.references == []`, as sources without captions give it.

    With `replace` also every document of kind `caption` with one picture, whatever it says.
    """
    if not document.images:
        return False
    if document.fields.get("references") == [] and not document.texts:
        return True
    return replace and document.kind == "caption" and len(document.images) == 1


def told_picture(document: Document) -> int:
    """Which picture the caption tells, from 0: the last, which in `segmentation` follows its class map."""
    return len(document.images) - 1


def completed(document: Document, caption: str, facts: Facts) -> Document:
    """The document with its caption: after the picture of a pair, before the picture that it is to be drawn from elsewhere.

    What it said before is kept in `fields.original_texts`, its references in `fields.original_references`.
    """
    fields = dict(document.fields)
    if document.texts:
        fields["original_texts"] = list(document.texts)
    if fields.get("references"):
        fields["original_references"] = fields["references"]
    fields["references"] = [caption]
    images = list(document.images)
    text = TextItem(text=caption)
    items: list[ImageItem | TextItem] = [*images, text] if document.kind == "caption" else [*images[:-1], text, images[-1]]
    return document.model_copy(
        update={
            "items": tuple(items),
            "fields": fields,
            "prompt_items": len(items) - 1 if document.kind in ("caption", "segmentation") else document.prompt_items,
            "facts": document.facts | facts,
            "origin": "automated",
        }
    )

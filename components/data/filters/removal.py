"""Pictures taken out of a document, which stays consistent: items, prompt, member names, bytes and fields that speak of pictures."""

from __future__ import annotations

from collections.abc import Collection

from components.data.documents import ImageItem
from components.data.filters.sequence import similarities
from components.data.sources.source import Accepted, with_members
from components.params import Kind

LOOSE_KINDS: frozenset[Kind] = frozenset({"matched", "interleaved"})
"""Kinds that are still what they were without one of their pictures; in the others a bad picture is a bad document."""


def without(accepted: Accepted, gone: Collection[int]) -> Accepted | None:
    """The document without the pictures of these numbers, or None where no item is left."""
    document = accepted.document
    stays = [number for number in range(len(accepted.images)) if number not in gone]
    numbers = iter(range(len(accepted.images)))
    kept = [not isinstance(item, ImageItem) or next(numbers) not in gone for item in document.items]
    items = tuple(item for item, keep in zip(document.items, kept, strict=True) if keep)
    if not items:
        return None
    fields = dict(document.fields)
    if (matrix := similarities(document)) is not None:
        fields["image_similarity"] = matrix[stays][:, stays].tolist()
    images = [accepted.images[number] for number in stays]
    changed = document.model_copy(update={"items": items, "prompt_items": sum(kept[: document.prompt_items]), "fields": fields})
    return Accepted(with_members(changed, images), images, [accepted.sizes[number] for number in stays])

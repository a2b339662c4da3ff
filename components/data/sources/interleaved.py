"""Documents in the form that OBELICS introduced and OmniCorpus took over: lists `images` and `texts` of the same length.

At each place one of the two is null: `images: ["http://..", null]`, `texts: [null, "words"]` is a picture and then words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from components.data.documents import DocumentError, Facts, ImageItem, TextItem, document_from
from components.data.sources.image_store import ImageStore
from components.data.sources.records import Record, accept_partly
from components.data.sources.source import Accepted, Limits, Rejected, document_id
from components.data.sources.values import checked_text, kind_of, list_of
from components.params import CorpusParams

FactsOf = Callable[[Mapping[str, Any]], Facts]
"""Facts of a picture from its entry in the list of metadata."""


def read_interleaved(
    corpus: CorpusParams, limits: Limits, store: ImageStore, record: Record, facts: Facts, metadata: Sequence[Any], facts_of_image: FactsOf
) -> Iterator[Accepted | Rejected]:
    """The document of a record, of kind `interleaved`, its order kept. `metadata` has an entry for each place, or none at all.

    A picture that cannot be had or used, or whose entry cannot be, is Rejected before it as `WHERE#PLACE`.
    Raises DocumentError where the lists do not fit each other.
    """
    where, values = record
    images, texts = list_of(values, "images"), list_of(values, "texts")
    if len(images) != len(texts) or (metadata and len(metadata) != len(images)):
        counts = f"{len(images)} images, {len(texts)} texts and {len(metadata)} entries of metadata"
        raise DocumentError(f"{counts} do not stand beside each other")
    if (count := sum(address is not None for address in images)) > limits.images:
        raise DocumentError(f"{count} images are more than max_document_images ({limits.images})")
    items: list[ImageItem | TextItem] = []
    addresses: list[str] = []
    for place, (address, text) in enumerate(zip(images, texts, strict=True)):
        if (address is None) == (text is None):
            raise DocumentError(f"place {place} has {'neither an image nor' if address is None else 'both an image and'} a text")
        if address is None:
            items += [TextItem(text=text)] if checked_text(text, f"texts[{place}]") else []
            continue
        try:
            checked_text(address, f"images[{place}]")
            items.append(_item(place, address, metadata, facts_of_image))
            addresses.append(address)
        except DocumentError as error:
            yield Rejected(f"{where}#{place}", str(error))
    if not items:
        raise DocumentError("neither a text nor a usable picture")
    path, _, number = where.rpartition(":")
    document = document_from(
        {
            "id": document_id(corpus.name, f"{path.rpartition('.')[0]}-{number}"),
            "source": corpus.name,
            "kind": "interleaved",
            "split": corpus.split,
            "licence": corpus.licence,
            "origin": "natural",
            "items": items,
            "facts": facts,
        }
    )
    yield from accept_partly(document, (store.fetch(address, address) for address in addresses), limits, where)


def _item(place: int, address: str, metadata: Sequence[Any], facts_of_image: FactsOf) -> ImageItem:
    entry = metadata[place] if metadata else None
    if entry is not None and not isinstance(entry, dict):
        raise DocumentError(f"metadata[{place}] must be an object, not {kind_of(entry)}")
    return ImageItem(id=str(place), path=str(place), facts=facts_of_image({"address": address, **(entry or {})}))

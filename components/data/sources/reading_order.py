"""Natural documents: texts and pictures in the order in which a reader meets them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from components.data.documents import DocumentError, Facts, ImageItem, TextItem, document_from
from components.data.pictures import PictureError
from components.data.sources.source import Accepted, Limits, Rejected, accept, document_id, measure
from components.params import CorpusParams

MAX_PAGE_BYTES = 20_000_000
"""A page, notebook or text file beyond this is no document that somebody reads."""


@dataclass(frozen=True)
class Picture:
    """A picture where it stands: its address in the document, its encoded file (None where the corpus lacks it), what is known of it."""

    address: str
    data: bytes | None
    facts: Facts = field(default_factory=dict)


Part = str | Picture


def assemble(
    corpus: CorpusParams, key: str, where: str, parts: Iterable[Part], limits: Limits, facts: Facts | None = None
) -> Iterator[Accepted | Rejected]:
    """One `interleaved` document of the parts, texts that follow each other joined by an empty line.

    A picture that cannot be used is rejected by itself, as `WHERE#ADDRESS`, and the document goes on without it. One that is not in the
    corpus is counted in the document's fact `images_missing`: a crawl without pictures is no broken crawl.
    """
    items: list[TextItem | ImageItem] = []
    images: list[bytes] = []
    sizes: list[tuple[int, int]] = []
    paragraphs: list[str] = []
    missing = 0

    def end_text() -> None:
        if text := "\n\n".join(paragraphs):
            items.append(TextItem(text=text))
        paragraphs.clear()

    for part in parts:
        if isinstance(part, str):
            if text := _clean(part):
                paragraphs.append(text)
            continue
        if part.data is None:
            missing += 1
            continue
        try:
            size = measure(part.data, "picture", limits)
        except PictureError as error:
            yield Rejected(f"{where}#{_clean(part.address)[:200]}", str(error))
            continue
        end_text()
        number = str(len(images))
        items.append(ImageItem(id=number, path=number, facts={name: value for name, value in part.facts.items() if value != ""}))
        images.append(part.data)
        sizes.append(size)
    end_text()
    if not items:
        yield Rejected(where, "neither text nor a usable picture")
        return
    known = dict(facts or {}) | ({"images_missing": missing} if missing else {})
    try:
        document = document_from(
            {
                "id": document_id(corpus.name, key),
                "source": corpus.name,
                "kind": "interleaved" if images else "text",
                "split": corpus.split,
                "licence": corpus.licence,
                "origin": "natural",
                "items": items,
                "facts": known,
            }
        )
        yield accept(document, images, limits, sizes)
    except (DocumentError, PictureError) as error:
        yield Rejected(where, str(error))


def _clean(text: str) -> str:
    """Text that can be stored: no lone surrogates, no control signs but line ends and tabs, no blanks around it."""
    kept = "".join(sign for sign in text if sign in "\n\t" or (sign.isprintable() and not "\ud800" <= sign <= "\udfff"))
    return kept.strip()

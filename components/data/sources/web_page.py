"""The main content of a web page in reading order, by trafilatura; menus, footers and scripts are left out."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator
from urllib.parse import urljoin

import trafilatura
from lxml import etree, html

from components.data.documents import DocumentError, Facts
from components.data.sources.reading_order import Part, Picture

_BLOCKS = {"p", "head", "item", "quote", "code", "cell", "lb", "list", "row", "table", "div"}
_SOURCES = ("data-src", "data-original", "src")
"""Where the address of a picture stands, best first: pages that load pictures late keep a stand-in in `src`."""
_MAX_INLINE_BYTES = 10_000_000


def page_parts(page: bytes, address: str, fetch: Callable[[str], bytes | None]) -> list[Part]:
    """Texts and pictures of a page whose address is `address`. `fetch` gives the file of a picture's absolute address, None where absent.

    Raises DocumentError where nothing readable is in the page.
    """
    try:
        tree = trafilatura.load_html(page)
        if tree is None:
            raise DocumentError("no HTML")
        pictures = _numbered(tree, address, fetch)
        text = trafilatura.extract(tree, include_images=True, include_comments=False, output_format="xml", favor_recall=True)
    except (ValueError, TypeError, RecursionError, AttributeError, LookupError, MemoryError, etree.LxmlError) as error:
        if isinstance(error, DocumentError):
            raise
        raise DocumentError(f"no page can be read from it: {type(error).__name__}: {error}") from None
    if not text:
        raise DocumentError("no main text in the page")
    try:
        content = etree.fromstring(text.encode("utf-8", "replace"), etree.XMLParser(resolve_entities=False, no_network=True))
    except etree.XMLSyntaxError as error:
        raise DocumentError(f"its content is no text: {error}") from None
    main = content.find("main")
    return [] if main is None else list(_joined(_walk(main, pictures)))


def _numbered(tree: html.HtmlElement, address: str, fetch: Callable[[str], bytes | None]) -> dict[str, Callable[[], Picture]]:
    """Gives every picture of the tree a name of its own and tells what each name means.

    trafilatura keeps only what it takes for an address of a picture, and loses the words after one that it does not.
    """
    known: dict[str, Callable[[], Picture]] = {}
    for image in tree.iter("img"):
        source = next((image.get(name) for name in _SOURCES if image.get(name)), "") or (image.get("srcset") or "").split(" ")[0]
        alt = image.get("alt") or image.get("title") or ""
        name = f"picture-{len(known)}.png"
        image.attrib.clear()
        image.set("src", name)
        known[name] = lambda source=source, alt=alt: _picture(source, alt, address, fetch)  # type: ignore[misc]
    return known


def _walk(element: etree._Element, pictures: dict[str, Callable[[], Picture]]) -> Iterator[Part | None]:
    """Pieces of text and pictures in order; None where a block ends."""
    if element.tag == "graphic":
        yield None
        if (found := pictures.get(str(element.get("src")))) is not None:
            yield found()
    else:
        if element.text:
            yield element.text
        for child in element:
            if isinstance(child.tag, str):
                yield from _walk(child, pictures)
    if element.tag in _BLOCKS:
        yield None
    if element.tail:
        yield element.tail


def _joined(pieces: Iterator[Part | None]) -> Iterator[Part]:
    """Whole paragraphs instead of pieces of text."""
    text = ""
    for piece in pieces:
        if isinstance(piece, str):
            text += piece
            continue
        if text := " ".join(text.split()):
            yield text
        text = ""
        if piece is not None:
            yield piece
    if text := " ".join(text.split()):
        yield text


def _picture(source: str, alt: str, address: str, fetch: Callable[[str], bytes | None]) -> Picture:
    if source.startswith("data:"):
        return Picture("data:", _inline(source), {"alt": alt[:1000]})
    try:
        absolute = urljoin(address, source) if source else ""
    except ValueError:  # a broken address, as `http://[`
        absolute = ""
    facts: Facts = {"url": absolute[:2000], "alt": alt[:1000]}
    return Picture(absolute or source, fetch(absolute) if absolute else None, facts)


def _inline(source: str) -> bytes | None:
    """The bytes of a `data:image/...;base64,` address."""
    head, _, body = source.partition(",")
    if not head.endswith(";base64") or len(body) > _MAX_INLINE_BYTES:
        return None
    try:
        return base64.b64decode(body, validate=False)
    except (binascii.Error, ValueError):
        return None

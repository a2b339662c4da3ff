"""Markdown (CommonMark with tables) as texts and pictures in reading order; signs of structure stay where a reader of text keeps them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html.parser import HTMLParser

from markdown_it import MarkdownIt
from markdown_it.token import Token

from components.data.sources.reading_order import Part, Picture

Fetch = Callable[[str], bytes | None]
"""The file of a picture by its address in the text; None where the corpus does not have it."""
_PARSER = MarkdownIt("commonmark", {"maxNesting": 50}).enable("table")


def markdown_parts(text: str, fetch: Fetch) -> Iterator[Part]:
    """Headings, paragraphs, list entries, code and table rows as texts, pictures where they stand."""
    mark = ""
    row: list[str] | None = None
    for token in _PARSER.parse(text):
        match token.type:
            case "heading_open":
                mark = "#" * int(token.tag[1:]) + " "
            case "list_item_open":
                mark = f"{token.info}{token.markup} " if token.info else "- "
            case "tr_open":
                row = []
            case "tr_close":
                yield " | ".join(row or [])
                row = None
            case "fence" | "code_block":
                yield f"```{token.info}\n{token.content.rstrip()}\n```"
            case "html_block":
                yield from _html_parts(token.content, fetch)
            case "inline" if row is not None:
                parts = list(_inline_parts(token, fetch))
                row.append(" ".join(part for part in parts if isinstance(part, str)))
                yield from (part for part in parts if isinstance(part, Picture))
            case "inline":
                for part in _inline_parts(token, fetch):
                    yield mark + part if isinstance(part, str) else part
                    mark = ""


def _inline_parts(inline: Token, fetch: Fetch) -> Iterator[Part]:
    text = ""
    for token in inline.children or []:
        found: list[Part] = []
        if token.type == "image":
            address = str(token.attrs.get("src", ""))
            found = [Picture(address, fetch(address), {"alt": token.content[:1000], "url": address[:2000]})]
        elif token.type == "html_inline":
            found = [part for part in _html_parts(token.content, fetch) if isinstance(part, Picture)]
        elif token.type in ("softbreak", "hardbreak"):
            text += "\n"
        else:
            text += f"`{token.content}`" if token.type == "code_inline" else token.content
        if found:
            if text.strip():
                yield text.strip()
            text = ""
            yield from found
    if text.strip():
        yield text.strip()


def _html_parts(html: str, fetch: Fetch) -> list[Part]:
    """Texts and `<img>` of a piece of HTML inside of Markdown."""
    reader = _Html(fetch)
    reader.feed(html)
    reader.close()
    return reader.parts


class _Html(HTMLParser):
    def __init__(self, fetch: Fetch) -> None:
        super().__init__()
        self.parts: list[Part] = []
        self._fetch = fetch
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "style"):
            self._hidden += 1
        named = dict(attrs)
        if tag == "img" and (address := named.get("src")):
            self.parts.append(Picture(address, self._fetch(address), {"alt": (named.get("alt") or "")[:1000], "url": address[:2000]}))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._hidden = max(0, self._hidden - 1)

    def handle_data(self, data: str) -> None:
        if not self._hidden and (text := " ".join(data.split())):
            self.parts.append(text)

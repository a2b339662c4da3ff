"""The arrays of one large JSON object, element by element: a file of many gigabytes is never in memory as a whole."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

MAX_ELEMENT_CHARACTERS = 10_000_000
_CHUNK_BYTES = 1 << 20
_BLANK = " \t\n\r"
_OF_NUMBERS = frozenset("0123456789+-.eE")
_LONGEST_TAIL = 3
"""Signs that may stand after a number that was read too early: `.`, `e`, `e+`."""


class JsonError(ValueError):
    """The file is no JSON object, or breaks off; nothing behind this place is read."""


@dataclass(frozen=True)
class Element:
    """An element of the top-level array `array`, counted from 0."""

    array: str
    number: int
    value: Any


def json_arrays(file: IO[bytes]) -> Iterator[Element]:
    """Elements of each array that is a value of the object, in the order of the file; other values are passed over.

    Python's `json` decides what an element is, so NaN is a number here and the reader of an element checks it. Raises JsonError, also
    for an element of more than MAX_ELEMENT_CHARACTERS.
    """
    text = _Text(file)
    text.expect("{")
    if text.skip("}"):
        return
    while True:
        name = text.value()
        if not isinstance(name, str):
            raise JsonError("a key is no text")
        text.expect(":")
        if text.skip("["):
            number = 0
            if not text.skip("]"):
                while True:
                    yield Element(name, number, text.value())
                    number += 1
                    if not text.skip(","):
                        text.expect("]")
                        break
        else:
            text.value()
        if not text.skip(","):
            text.expect("}")
            return


class _Text:
    """What is read of the file and not yet consumed."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._scan = json.JSONDecoder().raw_decode
        self._text, self._place, self._ended = "", 0, False

    def value(self) -> Any:
        """The next value."""
        self._blanks()
        while True:
            try:
                value, end = self._scan(self._text, self._place)
            except json.JSONDecodeError as error:
                if not self._ended and len(self._text) - self._place <= MAX_ELEMENT_CHARACTERS:
                    self._more()
                    continue
                raise JsonError(f"{error.msg} at {self._text[error.pos : error.pos + 20]!r}") from None
            except (RecursionError, ValueError) as error:
                raise JsonError(str(error)) from None
            # A number at the very end of what was read may go on; of `10.` only the `10` is one yet.
            if not self._ended and _OF_NUMBERS.issuperset(self._text[end : end + _LONGEST_TAIL]):
                if len(self._text) - self._place > MAX_ELEMENT_CHARACTERS:
                    raise JsonError(f"an element of more than {MAX_ELEMENT_CHARACTERS} characters")
                self._more()
                continue
            self._place = end
            return value

    def skip(self, sign: str) -> bool:
        """Whether the next sign is this one, which is then consumed."""
        self._blanks()
        found = self._text.startswith(sign, self._place)
        self._place += found
        return found

    def expect(self, sign: str) -> None:
        """Consume this sign. Raises JsonError where another one stands."""
        if not self.skip(sign):
            here = self._text[self._place : self._place + 20]
            raise JsonError(f"expected {sign!r} at {here!r}" if here else "the file ends in the middle")

    def _blanks(self) -> None:
        while True:
            while self._place < len(self._text) and self._text[self._place] in _BLANK:
                self._place += 1
            if self._place < len(self._text) or self._ended:
                return
            self._more()

    def _more(self) -> None:
        """Read on, doubling what is unread so that a long element is not scanned again and again."""
        rest = self._text[self._place :]
        data = self._file.read(max(_CHUNK_BYTES, len(rest)))
        try:
            self._text, self._place, self._ended = rest + self._decoder.decode(data, final=not data), 0, not data
        except UnicodeDecodeError as error:
            raise JsonError(f"not UTF-8: {error}") from None

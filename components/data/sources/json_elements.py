"""JSON files of any size, one element at a time: a list or an object is walked without holding more than an element of it.

Published annotations are single JSON documents of up to a gigabyte on one line. What is broken inside of an element ends the reading,
because nothing says where the next one begins; what can be told apart (text that is no UTF-8, NaN, a key that stands twice) costs that
element only.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from components.data.documents import MAX_LINE_BYTES, repeated_key
from components.data.sources.source import Rejected

_CHUNK = 1 << 20
_SHOWN = 80
_OF_NUMBERS = frozenset("0123456789+-.eE")
_LONGEST_TAIL = 3
"""Signs that may stand after a number that is read too early: `.`, `e`, `e+`."""


class Element(NamedTuple):
    """An element: `FILE:PATH[NUMBER]` or `FILE:PATH.KEY`, its number or key, and its value."""

    where: str
    key: int | str
    value: Any


class _BrokenError(ValueError):
    """The text cannot be read on; the message says why."""


def json_elements(file: BinaryIO, name: str, *path: str) -> Iterator[Element | Rejected]:
    """The elements of the list or object below `path` of keys, in order; a rejection for each unusable one, and for where it ends early."""
    text = _Text(file)
    try:
        yield from _below(text, name, ":", path)
        if text.next_sign():
            yield Rejected(name, "there is more text after the end of its JSON")
    except (_BrokenError, OSError) as error:
        yield _ended(text, name, error)


def json_lists(file: BinaryIO, name: str, *lists: str) -> Iterator[tuple[str, Element | Rejected]]:
    """The elements of these lists of an object, each with its list's name, in the order of the file, which is read once.

    Rejections as of `json_elements`, also for a list that is none or not there; that for where the file ends early has an empty name.
    """
    text = _Text(file)
    missing = dict.fromkeys(lists)
    try:
        if (sign := text.next_sign()) != "{":
            raise _BrokenError(_unexpected("an object", sign))
        for key in map(str, text.members()):
            text.place = f":{_plain(key)}"
            if key not in lists:
                text.skip()
                continue
            if key not in missing:
                yield key, Rejected(f"{name}{text.place}", repeated_key([(key, None)] * 2))
                text.skip()
                continue
            del missing[key]
            if text.next_sign() != "[":
                yield key, Rejected(f"{name}{text.place}", f"a list is expected, found {text.next_sign()!r}")
                text.place = ""
                text.skip()
                continue
            for one in _elements(text, name, f":{key}"):
                yield key, one
        if text.next_sign():
            yield "", Rejected(name, "there is more text after the end of its JSON")
    except (_BrokenError, OSError) as error:
        yield "", _ended(text, name, error)
        return
    for key in missing:
        yield key, Rejected(name, f"it has no {key!r}")


def _below(text: _Text, name: str, at: str, path: tuple[str, ...]) -> Iterator[Element | Rejected]:
    if not path:
        yield from _elements(text, name, at)
        return
    if (sign := text.next_sign()) != "{":
        raise _BrokenError(_unexpected(f"an object with {path[0]!r}", sign))
    below, found = f"{at}{path[0]}" if at == ":" else f"{at}.{path[0]}", False
    for key in text.members():
        text.place = f"{at}{'' if at == ':' else '.'}{_plain(str(key))}"
        if key != path[0]:
            text.skip()
        elif found:
            yield Rejected(f"{name}{below}", repeated_key([(path[0], None)] * 2))
            text.skip()
        else:
            found = True
            yield from _below(text, name, below, path[1:])
    if not found:
        yield Rejected(name, f"it has no {path[0]!r}")


def _elements(text: _Text, name: str, at: str) -> Iterator[Element | Rejected]:
    for key in text.members():
        text.place = f"{at}[{key}]" if isinstance(key, int) else f"{at}{'' if at == ':' else '.'}{_plain(key)}"
        value, problem = text.value()
        where = f"{name}{text.place}"
        yield Element(where, key, value) if problem is None else Rejected(where, problem)
        text.place = at.rstrip(":")


class _Text:
    """A window over a file's text that moves on; `place` says which element is being read."""

    def __init__(self, file: BinaryIO) -> None:
        self.place = ""
        self._file, self._decoder = file, codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._text, self._at, self._ended = "", 0, False
        self._problem: str | None = None
        self._json = json.JSONDecoder(parse_constant=self._note_constant, object_pairs_hook=self._object)

    def next_sign(self) -> str:
        """The sign after white space, not taken; nothing at the end."""
        while True:
            while self._at < len(self._text):
                if not self._text[self._at].isspace():
                    return self._text[self._at]
                self._at += 1
            if self._ended:
                return ""
            self._more()

    def members(self) -> Iterator[int | str]:
        """Numbers or keys of the list or object here. Each one's value must be read before the next is asked for."""
        opening = self.next_sign()
        if opening not in ("[", "{"):
            raise _BrokenError(_unexpected("a list or an object", opening))
        self._at += 1
        closing, number = ("]" if opening == "[" else "}"), 0
        if self.next_sign() == closing:
            self._at += 1
            return
        while True:
            if opening == "[":
                yield number
            else:
                key, _ = self.value()
                if not isinstance(key, str):
                    raise _BrokenError("a key is no text in double quotes")
                self._take(":")
                yield key
            number += 1
            if self.next_sign() == closing:
                self._at += 1
                return
            self._take(",")

    def skip(self) -> None:
        """Pass over a value, one element at a time."""
        if self.next_sign() in ("[", "{"):
            for _ in self.members():
                self.value()
        else:
            self.value()

    def value(self) -> tuple[Any, str | None]:
        """The value here and what makes it unusable, or None. Raises _BrokenError where it is no JSON."""
        if not self.next_sign():
            raise _BrokenError("the file ends in the middle")
        while True:
            self._problem = None
            try:
                value, end = self._json.raw_decode(self._text, self._at)
            except RecursionError:
                raise _BrokenError("not JSON: nested too deeply") from None
            except ValueError as error:
                if self._ended or len(self._text) - self._at > MAX_LINE_BYTES or not isinstance(error, json.JSONDecodeError):
                    raise _BrokenError(self._why(error)) from None
            else:
                if self._is_over(end):
                    break
                if self._ended:
                    raise _BrokenError("the file ends in the middle")
                if len(self._text) - self._at > MAX_LINE_BYTES:
                    raise _BrokenError(f"a value of more than {MAX_LINE_BYTES} characters")
            self._more()
        problem = self._problem
        if not _is_utf8(self._text[self._at : end]):
            problem = "not UTF-8"
        if end - self._at > MAX_LINE_BYTES:
            problem = f"longer than {MAX_LINE_BYTES} characters"
        self._at = end
        return value, problem

    def _is_over(self, end: int) -> bool:
        """Whether the value cannot go on: a number may, as `0.` does, while nothing else has been read behind it."""
        if self._text[end - 1] not in _OF_NUMBERS:
            return True
        return any(sign not in _OF_NUMBERS for sign in self._text[end : end + _LONGEST_TAIL])

    def _take(self, sign: str) -> None:
        if (found := self.next_sign()) != sign:
            raise _BrokenError(_unexpected(repr(sign), found))
        self._at += 1

    def _more(self) -> None:
        data = self._file.read(_CHUNK)
        self._ended = not data
        self._text, self._at = self._text[self._at :] + self._decoder.decode(data, final=self._ended), 0

    def _why(self, error: ValueError) -> str:
        if not isinstance(error, json.JSONDecodeError):
            return f"not JSON: {error}"
        if self._ended and error.pos >= len(self._text):
            return "the file ends in the middle"
        hint = "; JSON has double quotes, this looks like Python" if "'" in self._text[error.pos : error.pos + 1] else ""
        return f"not JSON: {error.msg}{hint}"

    def _note_constant(self, name: str) -> None:
        self._problem = f"{name} is not allowed"

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            self._problem = repeated_key(pairs)
        return values


def _ended(text: _Text, name: str, error: _BrokenError | OSError) -> Rejected:
    reason = f"unreadable from here: {error.strerror}" if isinstance(error, OSError) else f"{error}; the rest of the file is not read"
    return Rejected(f"{name}{text.place}", reason)


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _unexpected(wanted: str, found: str) -> str:
    return f"not JSON of this form: expected {wanted}, found {found!r}" if found else "the file ends in the middle"


def _plain(key: str) -> str:
    return key.encode("utf-8", "backslashreplace").decode("utf-8")[:_SHOWN]

"""Sets published as annotation files and a folder of pictures: what all of them share. A set adds its `Form`.

A file is read as often as it has parts (`options.parts`), each part keeping the records whose key falls to it, so that preparation can
go on with many at once. Memory holds the keys of a part and what must be joined, never a whole file.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import ValidationError

from components.data.documents import CorpusError, DocumentError, Facts, ImageItem, Split, TextItem, document_from
from components.data.pictures import PictureError
from components.data.sources.files import MissingFileError, json_lines, path_inside, read_image
from components.data.sources.json_elements import Element, json_elements
from components.data.sources.published import Phase, Published, SetOptions, chosen_phase
from components.data.sources.source import Accepted, Limits, Rejected, Unit, accept, document_id, read_options
from components.params import CorpusParams, Kind

Mine = Callable[[str], bool]
"""Whether a key falls to the part that is being read."""


@dataclass(frozen=True)
class Keyed:
    """A record before it is looked at: where it stands, its key in the set (None: it has none, its content is its key), and its values.

    Values may be a DocumentError: what is wrong with a record that was found out by joining files.
    """

    where: str
    key: str | None
    values: Any


@dataclass
class Draft:
    """What a record says, before its pictures are checked. `images` are the encoded pictures in item order.

    `sizes` are their widths and heights where the form has measured or made them all.
    """

    kind: Kind
    items: Sequence[TextItem | ImageItem]
    prompt_items: int
    images: Sequence[bytes] = ()
    fields: dict[str, Any] = field(default_factory=dict)
    facts: Facts = field(default_factory=dict)
    licence: str | None = None
    origin: Literal["natural", "automated", "human"] = "human"
    sizes: Sequence[tuple[int, int]] | None = None


class Shelf:
    """The files of one phase of a set, by names as published."""

    def __init__(self, folder: Path, phase: Phase, name: str, split: Split, limits: Limits) -> None:
        self.folder, self.phase, self.name, self.split, self.limits = folder, phase, name, split, limits

    def elements(self, file: str, *path: str) -> Iterator[Element | Rejected]:
        """`json_elements` of an annotation file; a rejection for a file that has none, which is no set of anything."""
        with path_inside(self.folder, file).open("rb") as opened:
            yield from _some(json_elements(opened, file, *path), file, *path)

    def lines(self, file: str) -> Iterator[Element | Rejected]:
        """The objects of a file of JSON lines, with their place in the file as keys; a rejection for a file that has none."""
        with path_inside(self.folder, file).open("rb") as opened:
            lines = enumerate(json_lines(opened, file))
            yield from _some((line if isinstance(line, Rejected) else Element(line[0], number, line[1]) for number, line in lines), file)

    def picture(self, name: str, number: int = 0) -> tuple[ImageItem, bytes]:
        """The picture `name` of the phase's folder as item `number`. Raises DocumentError where it cannot be read."""
        path = f"{self.phase.images}/{name}" if self.phase.images else name
        return ImageItem(id=str(number), path=path, loss=False), read_image(self.folder, path, self.limits.image_pixels)

    def first_picture(self, *names: str, number: int = 0) -> tuple[ImageItem, bytes]:
        """The first of these that is there."""
        for name in names[:-1]:
            try:
                return self.picture(name, number)
            except MissingFileError:
                continue
        return self.picture(names[-1], number)


class Form(Protocol):
    """How a set's annotation files are read."""

    def records(self, shelf: Shelf, mine: Mine) -> Iterator[Keyed | Rejected]:
        """All records whose key is `mine`, and whatever cannot be given a key as Rejected, in the order of the files."""
        ...

    def draft(self, values: Any, shelf: Shelf) -> Draft:
        """The document of a record's values. Raises DocumentError or PictureError with the reason why there is none."""
        ...


class AnnotatedSource:
    """A Source of a published set."""

    def __init__(self, corpus: CorpusParams, shelf: Shelf, form: Form, parts: int) -> None:
        self._corpus, self._shelf, self._form, self._parts = corpus, shelf, form, parts

    def units(self) -> Sequence[Unit]:
        """The parts of the phase."""
        name = f"{self._corpus.format}-{self._shelf.name}"
        if self._parts == 1:
            return [Unit(name, self._shelf.phase.files)]
        return [Unit(f"{name}-{part:05d}-of-{self._parts:05d}", self._shelf.phase.files) for part in range(self._parts)]

    def documents(self, unit: Unit) -> Iterator[Accepted | Rejected]:
        """The documents of a part. What has no key is refused in the first part only."""
        part = [own.name for own in self.units()].index(unit.name)
        seen: set[bytes] = set()
        repeated: Counter[str] = Counter()
        try:
            for found in self._form.records(
                self._shelf, lambda key: part == zlib.crc32(key.encode("utf-8", "surrogatepass")) % self._parts
            ):
                if isinstance(found, Rejected):
                    if part == 0:
                        yield found
                    continue
                if isinstance(found.values, DocumentError):
                    yield Rejected(found.where, str(found.values))
                    continue
                key = found.key if found.key is not None else _by_content(found.values, repeated)
                digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
                if digest in seen:
                    yield Rejected(found.where, f"id {_short(key)} was used before")
                    continue
                seen.add(digest)
                yield self._accepted(found, key)
        except (DocumentError, OSError) as error:  # an annotation file that went away or cannot be opened
            yield Rejected(unit.files[0], str(error))

    def expected_count(self) -> int | None:
        """How many records the complete phase has, as published; None where nothing was."""
        return self._shelf.phase.count

    def notes(self, read: int) -> Sequence[str]:
        """What is worth a warning, after `read` records (accepted and refused) of all units: a count that differs from the published one.

        A subset is legal, so this is no error.
        """
        count, within = self._shelf.phase.count, self._shelf.phase.within
        if count is None or abs(read - count) <= within:
            return []
        about = "about " if within else ""
        return [f"corpus {self._corpus.name}: {read} records, the complete {self._corpus.format} {self._shelf.name} has {about}{count}"]

    def _accepted(self, found: Keyed, key: str) -> Accepted | Rejected:
        try:
            draft = self._form.draft(found.values, self._shelf)
            document = document_from(
                {
                    "id": document_id(self._corpus.name, key),
                    "source": self._corpus.name,
                    "kind": draft.kind,
                    "split": self._corpus.split,
                    "licence": draft.licence or self._corpus.licence,
                    "origin": draft.origin,
                    "items": tuple(draft.items),
                    "prompt_items": draft.prompt_items,
                    "fields": draft.fields,
                    "facts": draft.facts,
                }
            )
            return accept(document, draft.images, self._shelf.limits, draft.sizes)
        except MissingFileError as error:
            return Rejected(found.where, str(error), missing=True)
        except ValidationError as error:
            return Rejected(found.where, error.errors()[0]["msg"])
        except RecursionError:
            return Rejected(found.where, "nested too deeply")
        except (DocumentError, PictureError) as error:
            return Rejected(found.where, str(error))


def open_set(
    corpus: CorpusParams,
    folder: Path,
    limits: Limits,
    published: Published,
    form: Callable[[Shelf], Form],
    options: SetOptions | None = None,
) -> AnnotatedSource:
    """The source of a published set. Raises CorpusError for a wrong option, a set that is not to train on, or missing annotation files."""
    options = options or read_options(SetOptions, corpus)
    name, phase = chosen_phase(corpus, published, options)
    for file in phase.files:
        try:
            path_inside(folder, file)
        except DocumentError as error:
            raise CorpusError(
                f"corpus {corpus.name}: {folder}: {error}; {corpus.format} {name} is read from {', '.join(phase.files)} (docs/corpora.md)"
            ) from None
    shelf = Shelf(folder, phase, name, corpus.split, limits)
    return AnnotatedSource(corpus, shelf, form(shelf), options.parts)


def keyed(found: Iterable[Element | Rejected], key: Callable[[Any], str], mine: Mine, own: bool = True) -> Iterator[Keyed | Rejected]:
    """Elements with the key that their values state (`own`: it is theirs, and no other may have it); a rejection for each without."""
    for element in found:
        if isinstance(element, Rejected):
            yield element
            continue
        try:
            stated = key(element.value)
        except DocumentError as error:
            yield Rejected(element.where, str(error))
            continue
        if mine(stated):
            yield Keyed(element.where, stated if own else None, element.value)


def unkeyed(found: Iterable[Element | Rejected], mine: Mine) -> Iterator[Keyed | Rejected]:
    """Elements of a set whose records have no ids."""
    yield from keyed(found, content_key, mine, own=False)


def content_key(values: Any) -> str:
    """A digest of a record's values. Raises DocumentError for values nested beyond measure."""
    try:
        return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=12).hexdigest()
    except RecursionError:
        raise DocumentError("nested too deeply") from None


def _some(found: Iterable[Element | Rejected], file: str, *path: str) -> Iterator[Element | Rejected]:
    """What is found, or a rejection where that is nothing."""
    nothing = True
    for one in found:
        nothing = False
        yield one
    if nothing:
        yield Rejected(f"{file}:{'.'.join(path)}".removesuffix(":"), "there is no record in it")


def _by_content(values: Any, repeated: Counter[str]) -> str:
    """The content's digest; a record that repeats another one has its number added, for nothing says that it is a mistake."""
    key = content_key(values)
    repeated[key] += 1
    return key if repeated[key] == 1 else f"{key}-{repeated[key]}"


def _short(key: str) -> str:
    return key if len(key) <= 60 else f"{key[:60]}..."

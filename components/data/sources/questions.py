"""Sets of questions on pictures, each a list of records in one file or several. What differs between them is how a record is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from components.data import templates
from components.data.documents import DocumentError, ImageItem
from components.data.sources.annotated import Draft, Keyed, Mine, Shelf, keyed, unkeyed
from components.data.sources.hostile_values import commonest
from components.data.sources.json_elements import Element
from components.data.sources.source import Rejected


@dataclass(frozen=True)
class Question:
    """A question as its record states it. `pictures` are names of which the first that is there is shown; `answers` has no blank alone.

    `answer` is the one that is trained: the commonest where it is empty.
    """

    pictures: tuple[str, ...]
    text: str
    answers: Sequence[str]
    answer: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    origin: Literal["human", "automated"] = "human"


class Filed(NamedTuple):
    """A record and the name of its file, without the folder: a record is the same wherever its file lies."""

    file: str
    values: Any


Read = Callable[[Filed], Question]
"""The question of a record. Raises DocumentError."""
Spread = Callable[[Element], Iterable[tuple[str, Any]]]
"""The records of an element, each with what follows the element's place. Raises DocumentError."""


def whole_element(element: Element) -> Iterable[tuple[str, Any]]:
    """An element that is one record."""
    return (("", element.value),)


class QuestionList:
    """A Form: the list or object below `path` of each annotation file, whose elements `spread` into records with the id `key`, or none."""

    def __init__(
        self,
        read: Read,
        *path: str,
        key: Callable[[Filed], str] | None = None,
        spread: Spread = whole_element,
        prompt: Literal["vqa", "vizwiz"] = "vqa",
    ) -> None:
        self._read, self._path, self._key, self._spread, self._prompt = read, path, key, spread, prompt

    def records(self, shelf: Shelf, mine: Mine) -> Iterator[Keyed | Rejected]:
        """All records of all files."""
        for file in shelf.phase.files:
            found = self._spreaded(shelf, file)
            yield from unkeyed(found, mine) if self._key is None else keyed(found, self._key, mine)

    def draft(self, values: Filed, shelf: Shelf) -> Draft:
        """The question with its picture in the words of the paper."""
        question = self._read(values)
        return question_draft(question, shelf.first_picture(*question.pictures), shelf, self._prompt)

    def _spreaded(self, shelf: Shelf, file: str) -> Iterator[Element | Rejected]:
        for element in shelf.elements(file, *self._path):
            if isinstance(element, Rejected):
                yield element
                continue
            try:
                for number, (place, values) in enumerate(self._spread(element)):
                    yield Element(f"{element.where}{place}", number, Filed(file.rpartition("/")[2], values))
            except DocumentError as error:
                yield Rejected(element.where, str(error))


def question_draft(question: Question, picture: tuple[ImageItem, bytes], shelf: Shelf, prompt: Literal["vqa", "vizwiz"] = "vqa") -> Draft:
    """The document of a question. Fields are `question`, `answer` and `answers`, and what else the set states."""
    item, data = picture
    answer = question.answer or commonest(question.answers)
    if prompt == "vizwiz":
        items, given = templates.vizwiz(item, question.text, answer)
    else:
        items, given = templates.vqa(item, question.text, answer, split=shelf.split)
    fields = {"question": question.text, "answer": answer, "answers": list(question.answers)} | question.fields
    return Draft("question", items, given, [data], fields, origin=question.origin)

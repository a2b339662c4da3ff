"""The single-scene kinds of the built-in corpus: captions, questions, referring expressions, segmentation, decomposition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from components.data.boxes import box_to_text
from components.data.documents import Split
from components.data.sources.ink import Figure
from components.data.sources.stock import COLOUR_NAMES, Stock
from components.data.sources.wording import CORNERS, ORDINALS, phrase, sentence


@dataclass
class Draft:
    """A document being composed."""

    key: str
    items: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[np.ndarray] = field(default_factory=list)
    scenes: list[dict[str, Any]] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)
    prompt_items: int = 0

    def text(self, text: str, loss: bool = True) -> None:
        """Append a text."""
        self.items.append({"type": "text", "text": text, "loss": loss})

    def picture(self, picture: np.ndarray, figures: Sequence[Figure], loss: bool = True) -> None:
        """Append a picture and what is drawn in it."""
        number = len(self.pictures)
        self.items.append({"type": "image", "id": str(number), "path": f"{self.key}.{number}.png", "loss": loss})
        self.pictures.append(picture)
        self.scenes.append({"digits": [figure.as_field() for figure in figures]})

    def prompt_ends(self) -> None:
        """What was appended so far is given at evaluation."""
        self.prompt_items = len(self.items)

    def ask(self, pairs: Sequence[tuple[str, str]], rng: np.random.Generator, split: Split) -> None:
        """Append questions and answers: to evaluate only the first, whose answer is the reference; to train on mostly all of them.

        A document ends after its last answer, so the few with one question teach to stop after the first.
        """
        for number, (question, answer) in enumerate(pairs if split == "train" and rng.random() < _ALL_ASKED else pairs[:1]):
            self.text(question, loss=False)
            if number == 0:
                self.prompt_ends()
            self.text(answer)


_ALL_ASKED = 0.8
"""Share of training documents that hold all their questions."""

Compose = Callable[[Draft, Stock, np.random.Generator, Split], None]


def caption(draft: Draft, stock: Stock, rng: np.random.Generator, split: Split) -> None:
    """A picture and its sentence; training swaps them by a keyed coin."""
    figures = stock.figures(stock.corners(1 + int(rng.integers(3)), rng), rng)
    draft.picture(stock.press.scene(figures, stock.press.ground(rng), rng), figures)
    draft.prompt_ends()
    draft.text(sentence(figures))
    draft.fields["references"] = [sentence(figures)]


def multi(draft: Draft, stock: Stock, rng: np.random.Generator, split: Split) -> None:
    """Two or three pictures, each with a sentence that does not tell its digit, and questions that need two of them."""
    figures = [stock.figures(stock.corners(1, rng), rng)[0] for _ in range(2 + int(rng.integers(2)))]
    one, two = sorted(rng.permutation(len(figures))[:2].tolist())
    if rng.random() < 0.4:
        twin = figures[one].digit
        figures[two] = Figure(stock.scan(twin, rng), twin, *_attributes(figures[two]))
    for ordinal, figure in zip(ORDINALS, figures, strict=False):
        draft.picture(stock.press.scene([figure], stock.press.ground(rng), rng), [figure], loss=False)
        draft.text(f"the {ordinal} has something {figure.colour} {figure.place}.", loss=ordinal != ORDINALS[len(figures) - 1])
    left, right, names = figures[one].digit, figures[two].digit, (ORDINALS[one], ORDINALS[two])
    questions = {
        "sum": (f"what is the sum of the {names[0]} and the {names[1]}?", str(left + right)),
        "same": (f"do the {names[0]} and the {names[1]} show the same digit?", "yes" if left == right else "no"),
    }
    if left != right:
        questions["larger"] = (f"is the digit larger in the {names[0]} or the {names[1]}?", names[int(right > left)])
    order = [list(questions)[index] for index in rng.permutation(len(questions))]
    draft.ask([questions[name] for name in order], rng, split)
    question, answer = questions[order[0]]
    draft.fields |= {"question": question, "answer": answer, "question_type": order[0], "pictures_needed": [one, two]}


def question(draft: Draft, stock: Stock, rng: np.random.Generator, split: Split) -> None:
    """A scene with a digit in every corner, and which digit is where; chance is 0.10. Questions after the first are short."""
    figures = stock.figures(CORNERS, rng)
    draft.picture(stock.press.scene(figures, stock.press.ground(rng), rng), figures, loss=False)
    order = [figures[index] for index in rng.permutation(4)]
    asked = [f"what digit is {order[0].place}?", *(f"{figure.place}?" for figure in order[1:])]
    draft.ask([(text, str(figure.digit)) for text, figure in zip(asked, order, strict=True)], rng, split)
    draft.fields |= {"question": asked[0], "answer": str(order[0].digit), "place": order[0].place}


def referring(draft: Draft, stock: Stock, rng: np.random.Generator, split: Split) -> None:
    """A scene of few inks, where only colour and digit together say which one is meant, and its box."""
    palette = [COLOUR_NAMES[index] for index in rng.permutation(len(COLOUR_NAMES))[:2]]
    figures = stock.figures(stock.corners(2 + int(rng.integers(3)), rng), rng, palette)
    named = [(figure.colour, figure.digit) for figure in figures]
    while all(named.count(name) > 1 for name in named):
        figures = stock.figures([figure.place for figure in figures], rng, palette)
        named = [(figure.colour, figure.digit) for figure in figures]
    draft.picture(stock.press.scene(figures, stock.press.ground(rng), rng), figures, loss=False)
    clear = [figure for figure, name in zip(figures, named, strict=True) if named.count(name) == 1]
    order = [clear[index] for index in rng.permutation(len(clear))]
    px = stock.press.px
    draft.ask([(f"where is the {figure.colour} {figure.digit}?", box_to_text(figure.box, px, px)) for figure in order], rng, split)
    draft.fields |= {"phrase": f"the {order[0].colour} {order[0].digit}", "box": order[0].box}


def segmentation(draft: Draft, stock: Stock, rng: np.random.Generator, split: Split) -> None:
    """A class map and a sentence, then the picture they tell; each class has its own ink, another one than in the map."""
    figures = stock.figures(stock.corners(1 + int(rng.integers(4)), rng), rng)
    draft.picture(stock.press.class_map(figures), figures, loss=False)
    draft.text("paint " + ", ".join(f"{figure.place} a {figure.digit}" for figure in figures) + ".", loss=False)
    draft.prompt_ends()
    draft.picture(stock.press.class_scene(figures, stock.press.ground(rng), rng), figures)
    draft.fields["classes"] = sorted({figure.digit for figure in figures})


def decompose(draft: Draft, stock: Stock, rng: np.random.Generator, split: Split) -> None:
    """A scene, then one picture per object with its sentence."""
    figures = stock.figures(stock.corners(2 + int(rng.integers(2)), rng), rng)
    ground = stock.press.ground(rng)
    draft.picture(stock.press.scene(figures, ground, rng), figures, loss=False)
    draft.text("take it apart.", loss=False)
    draft.prompt_ends()
    for figure in figures:
        draft.text(sentence([figure]))
        draft.picture(stock.press.scene([figure], ground, rng), [figure])
    draft.fields["objects"] = [phrase(figure) for figure in figures]


def _attributes(figure: Figure) -> tuple[str, str, int, int, int]:
    return figure.colour, figure.place, figure.size, figure.x, figure.y

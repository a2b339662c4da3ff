"""The picture stories of the built-in corpus: one scanned digit walks, turns another colour or meets another digit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from components.data.documents import Split
from components.data.sources.ink import STYLES, Figure, Style
from components.data.sources.kinds import Draft
from components.data.sources.stock import CLOCKWISE, COLOUR_NAMES, Stock
from components.data.sources.wording import article, phrase, sentence

FRAMES = 5
STYLE_FRAMES = 3
TURNING_POINT = 2
"""The frame from which the hero has its new colour or company (0-based)."""
_STRIDES = {"walks clockwise": 1, "walks counterclockwise": -1, "jumps across": 2, "stays": 0}


@dataclass(frozen=True)
class Tale:
    """A story: how it is announced, and the figures of each frame, hero first."""

    announcement: str
    motion: str
    event: str
    frames: list[list[Figure]]


def tell(stock: Stock, rng: np.random.Generator, frames: int) -> Tale:
    """A story that follows from its announcement: where everybody is, and in which colour, can be deduced from the first sentence."""
    hero = stock.figures([CLOCKWISE[int(rng.integers(4))]], rng)[0]
    motion = list(_STRIDES)[int(rng.integers(4))]
    event = ("turns", "meets", "none")[int(rng.integers(2 if motion == "stays" else 3))]
    colour = [name for name in COLOUR_NAMES if name != hero.colour][int(rng.integers(len(COLOUR_NAMES) - 1))]
    digit = [number for number in range(10) if number != hero.digit][int(rng.integers(9))]
    start = CLOCKWISE.index(hero.place)
    scan = stock.scan(digit, rng)
    told = []
    for frame in range(frames):
        place = (start + _STRIDES[motion] * frame) % 4
        figures = [stock.moved(hero, CLOCKWISE[place])]
        if event == "turns" and frame >= TURNING_POINT:
            figures = [figures[0].recoloured(colour)]
        if event == "meets" and frame >= TURNING_POINT:
            opposite = stock.moved(figures[0], CLOCKWISE[(place + 2) % 4])
            figures.append(Figure(scan, digit, colour, opposite.place, opposite.size, opposite.x, opposite.y))
        told.append(figures)
    ending = {"turns": f" and turns {colour}.", "meets": f" and meets {article(colour)} {digit}.", "none": "."}[event]
    return Tale(f"{hero.place} {phrase(hero)} {motion}{ending}", motion, event, told)


def story(draft: Draft, stock: Stock, rng: np.random.Generator, split: Split) -> None:
    """Five frames, each a sentence and its picture; the first sentence and picture are given, as PororoSV and FlintstonesSV are scored."""
    tale = tell(stock, rng, FRAMES)
    ground = stock.press.ground(rng)
    frames = []
    for number, figures in enumerate(tale.frames):
        text = sentence(figures) if number else tale.announcement
        draft.text(text, loss=number > 0)
        draft.picture(stock.press.scene(figures, ground, rng), figures)
        if number == 0:
            draft.prompt_ends()
        frames.append({"text": text, "digits": [figure.as_field() for figure in figures]})
    draft.fields |= {"frames": frames, "motion": tale.motion, "event": tale.event}


def style(draft: Draft, stock: Stock, rng: np.random.Generator, split: Split) -> None:
    """A short story, then the same story redrawn in another style that its text names."""
    tale = tell(stock, rng, STYLE_FRAMES)
    ground = stock.press.ground(rng)
    manner: Style = STYLES[int(rng.integers(len(STYLES)))]
    colour = COLOUR_NAMES[int(rng.integers(len(COLOUR_NAMES)))]
    name = f"coloured {colour}" if manner == "coloured" else manner
    for number, figures in enumerate(tale.frames):
        draft.text(sentence(figures) if number else tale.announcement, loss=False)
        draft.picture(stock.press.scene(figures, ground, rng), figures, loss=False)
    draft.text(f"now the same story {name}.", loss=False)
    draft.prompt_ends()
    for figures in tale.frames:
        redrawn = [figure.recoloured(colour) for figure in figures] if manner == "coloured" else figures
        draft.text(sentence(redrawn).replace(".", f", {name}."))
        draft.picture(stock.press.scene(redrawn, ground, rng, manner), redrawn)
    draft.fields |= {"style": name, "motion": tale.motion, "event": tale.event}

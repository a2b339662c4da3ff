"""Which frames of a video are looked at: windows of frames by what is shown at their times. Pure; frames may be anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from components.curation_params import WindowParams

Frame = TypeVar("Frame")
_SLACK_S = 1e-6
"""Times are sums of rounded numbers."""


@dataclass
class Window(Generic[Frame]):
    """Frames of a window with their times, seconds. `kind` counts the kinds of windows, `number` the windows of the kind, both from 0."""

    kind: int
    number: int
    frames: list[tuple[float, Frame]] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Its name in the video."""
        return f"{self.kind}-{self.number:05d}"


class Windower(Generic[Frame]):
    """Takes the frames of a video in order, gives windows as they become complete and holds no frame longer than a window needs it.

    The frame of a time is the one shown then: the last that does not come later. A frame stands in a window once, so that windows over a
    picture that stands still have fewer frames.
    """

    def __init__(self, kinds: Sequence[WindowParams], keep: Callable[[Frame], object] = id) -> None:
        """`keep` is told of each frame that a window takes."""
        self._courses = [_Course[Frame](kind, params, keep) for kind, params in enumerate(kinds)]
        self._shown: tuple[float, Frame] | None = None
        self._origin = 0.0

    def take(self, time_s: float, frame: Frame) -> Iterator[Window[Frame]]:
        """The next frame, of a later time than the one before; the windows that are complete now."""
        if self._shown is None:
            self._origin = time_s
        else:
            yield from self._advance(time_s - self._origin)
        self._shown = (time_s - self._origin, frame)

    def end(self) -> Iterator[Window[Frame]]:
        """The video ends with the last frame: the windows that are left, however many frames they have."""
        if self._shown is not None:
            yield from self._advance(self._shown[0] + 2 * _SLACK_S)
        for course in self._courses:
            yield from course.rest()

    def _advance(self, until_s: float) -> Iterator[Window[Frame]]:
        assert self._shown is not None
        for course in self._courses:
            yield from course.show(*self._shown, until_s)


class _Course(Generic[Frame]):
    """The windows of one kind that are under way."""

    def __init__(self, kind: int, params: WindowParams, keep: Callable[[Frame], object]) -> None:
        self._kind, self._params, self._keep = kind, params, keep
        self._started = 0
        self._open: list[_Open[Frame]] = []

    def show(self, time_s: float, frame: Frame, until_s: float) -> Iterator[Window[Frame]]:
        """`frame` is what is shown from its time until another comes."""
        starts = 0
        while self._started * self._params.stride_s < until_s - _SLACK_S:
            # Where neighbours are asked for, all that start at one frame are the same window.
            if self._params.apart_s > 0 or starts == 0:
                self._open.append(_Open(Window(self._kind, self._started), self._started * self._params.stride_s))
            self._started += 1
            starts += 1
        for one in self._open:
            if one.show(time_s, frame, until_s, self._params):
                self._keep(frame)
        complete = [one.window for one in self._open if one.asked >= self._params.frames]
        self._open = [one for one in self._open if one.asked < self._params.frames]
        yield from complete

    def rest(self) -> Iterator[Window[Frame]]:
        """What is not complete and will not be."""
        yield from (one.window for one in self._open if one.window.frames)
        self._open = []


@dataclass
class _Open(Generic[Frame]):
    """A window that has been asked for `asked` of its frames."""

    window: Window[Frame]
    start_s: float
    asked: int = 0

    def show(self, time_s: float, frame: Frame, until_s: float, params: WindowParams) -> bool:
        """Whether the window takes the frame."""
        before = self.asked
        if params.apart_s == 0:
            self.asked += 1
        else:
            while self.asked < params.frames and self.start_s + self.asked * params.apart_s < until_s - _SLACK_S:
                self.asked += 1
        if self.asked > before:
            self.window.frames.append((time_s, frame))
        return self.asked > before

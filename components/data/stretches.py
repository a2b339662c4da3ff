"""The plan of a training whose level changes: one plan a stretch, each begun where the one before stood at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from components.data.cursor import Cursor
from components.data.plan import Place
from components.data.sources_plan import MixedPlan

OpenPlan = Callable[[Mapping[str, Place], int, int], MixedPlan]
"""(places, draw, level) → the plan from that draw on."""


class Stretches:
    """Plans by step, from a cursor on. Without moves there is one, and no more to it."""

    def __init__(self, open_plan: OpenPlan, cursor: Cursor, rows_per_step: int) -> None:
        self._open, self.cursor, self._rows_per_step = open_plan, cursor, rows_per_step
        first = open_plan(cursor.places, cursor.places_draw, cursor.level(cursor.step))
        self._plans = [(cursor.step, first)]

    def at(self, step: int) -> MixedPlan:
        """The plan of a step's rows. Raises ValueError for a step before the cursor."""
        if step < self.cursor.step:
            raise ValueError(f"step {step} lies before the cursor this stream was opened at, step {self.cursor.step}")
        for first, level in self.cursor.moves:
            begun, plan = self._plans[-1]
            if begun < first <= step:
                draw = self.cursor.draw(self.row(first))
                self._plans.append((first, self._open(plan.places(draw), draw, level)))
        return next(plan for first, plan in reversed(self._plans) if first <= step)

    def row(self, step: int) -> int:
        """The first row of a step, counted from the beginning of the training."""
        return self.cursor.rows + (step - self.cursor.step) * self._rows_per_step

    def move(self, step: int, level: int) -> None:
        """Rows from the start of `step` on are drawn at a level. A move that is known already changes nothing.

        Raises ValueError for a step that does not come after the moves before it, whose rows would change.
        """
        if (step, level) in self.cursor.moves:
            return
        last = max((first for first, _ in self.cursor.moves), default=self.cursor.step)
        if step <= last:
            raise ValueError(f"a change of level at step {step} would change the rows of steps from {last} on")
        self.cursor = replace(self.cursor, moves=(*self.cursor.moves, (step, level)))

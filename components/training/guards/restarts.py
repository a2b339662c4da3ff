"""How often, and after what pause, ranks that failed are started again: a pure function of how they failed and how far they came."""

from __future__ import annotations

from dataclasses import dataclass, replace

from components.run.failures import FailureClass, Restart, StageError
from components.training.guards.bad_steps import BadSteps

LONGEST_DELAY_S = 300.0


@dataclass(frozen=True)
class Budget:
    """Restarts that are left. Failures are counted one after the other without progress; a committed step beyond the last one refills."""

    limit: int
    delay_s: float
    """Before the first restart; doubled for each further one without progress."""
    used: int = 0
    reached: int = 0
    """The committed step that was reached at the last failure."""

    def after(self, reached: int, free: bool) -> Budget | None:
        """The budget after a failure at which `reached` was the last committed step; None when there is none left.

        A free restart costs nothing.
        """
        used = 0 if reached > self.reached else self.used
        if free:
            return replace(self, used=used, reached=reached)
        return replace(self, used=used + 1, reached=reached) if used < self.limit else None

    @property
    def pause_s(self) -> float:
        """What to wait before the restart that was granted last."""
        return min(self.delay_s * 2 ** (self.used - 1), LONGEST_DELAY_S) if self.used else 0.0


class KilledRank(StageError):
    """A signal ended a rank, and no other rank knows why."""


def restart_of(error: StageError) -> Restart:
    """What may be done about a failure. A rank that was killed may have been anybody's victim; bad steps must be known to be left out."""
    if isinstance(error, KilledRank) and error.failure is not FailureClass.PREEMPTED:
        return Restart.BUDGETED
    restart = error.failure.restart
    return Restart.NEVER if restart is Restart.ROLL_BACK and not isinstance(error, BadSteps) else restart

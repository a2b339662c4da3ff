"""The answer to SIGTERM: a rank remembers it until all ranks agree to stop."""

from __future__ import annotations

import signal
from types import FrameType


class StopSignal:
    """Remembers SIGTERM; the ranks agree on it at the next step."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        return self.asked

    def listen(self) -> None:
        """Take SIGTERM over, also from Lightning, which would end the rank without a checkpoint."""
        signal.signal(signal.SIGTERM, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

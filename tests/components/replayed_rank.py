"""The rank program of a replay with the stand-in network, which has no documents to tell of."""

from __future__ import annotations

import sys
from pathlib import Path

from standin_rank import standin

from components.training.rank import leave
from components.training.replay.replay_rank import replay_rank

if __name__ == "__main__":
    leave(replay_rank(Path(sys.argv[1]), standin, lambda job, step, heard, levels: [{"heard": len(heard)}]))  # type: ignore[arg-type]

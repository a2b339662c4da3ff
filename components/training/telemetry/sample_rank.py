"""`python -m components.training.telemetry.sample_rank CHECKPOINT PICTURE`: what a committed checkpoint makes of a few held-out documents.

The process gives way to whoever trains before it imports anything heavy.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    os.nice(19)
    from components.training.telemetry.samples import draw

    draw(Path(sys.argv[1]), Path(sys.argv[2]))

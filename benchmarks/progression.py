"""Documents by levels beside all at once: the pretraining of four overlays on the built-in corpus, measured on the same held-out documents.
`python -m benchmarks.progression [--quick] [--json FILE]`; a study, no race: it has no goals.
"""

from __future__ import annotations

from pathlib import Path

OVERLAYS = ("interleaved", "staged", "progressive_fixed", "progressive")
ROOT = Path(__file__).resolve().parents[1]

"""How long `make setup` takes in a fresh clone: `python -m benchmarks.install [--quick] [--json FILE]`.

Packages come from the index that pip is configured with, so the number is also one about that.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import watch
from benchmarks.record import Goal, median_row, options, publish

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    asked = options("cost of installing everything")
    first, second = zip(*[_repetition() for _ in range(asked.repetitions)], strict=True)
    check = "pip check, and mmfs --help runs"
    rows = [median_row("fresh clone", "wall", first, "s", check, Goal(240)), median_row("installed already", "wall", second, "s", check)]
    publish("install", rows, asked)


def _repetition() -> tuple[float, float]:
    with tempfile.TemporaryDirectory(prefix="mmfs install ") as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        setup = ["make", "setup", f"PYTHON={sys.base_prefix}/bin/python3"]
        first = watch.run(setup, clone, os.environ)
        second = watch.run(setup, clone, os.environ)
        if first.returncode or second.returncode:
            raise RuntimeError(f"make setup failed: {first.output[-2000:]}")
        subprocess.run([clone / ".venv/bin/python", "-m", "pip", "check"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run([clone / ".venv/bin/mmfs", "--help"], check=True, stdout=subprocess.DEVNULL)
        return first.seconds, second.seconds


if __name__ == "__main__":
    main()

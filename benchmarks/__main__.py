"""Run every benchmark and render docs/benchmarks.md: `python -m benchmarks [--quick] [--repetitions N]` (a quick run renders nothing)."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.record import options

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PAGE = ROOT / "docs" / "benchmarks.md"


def main() -> None:
    asked = options("every benchmark")
    documents, missing = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name in names():
            file = Path(folder) / f"{name}.json"
            command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(file), "--repetitions", str(asked.repetitions)]
            done = subprocess.run([*command, *(["--quick"] if asked.quick else [])], cwd=ROOT, check=False)
            if done.returncode:  # the others are measured all the same
                missing.append(name)
            else:
                documents.append(json.loads(file.read_text(encoding="utf-8")))
    if not asked.quick:
        PAGE.write_text(page(documents, missing), encoding="utf-8")
    if missing:
        sys.exit(f"not measured: {', '.join(missing)}; what they lack they said above")


def names() -> list[str]:
    """The benchmark modules: those beside this one that have a `main`."""
    return sorted(file.stem for file in HERE.glob("*.py") if file.stem != "__main__" and "\ndef main(" in file.read_text(encoding="utf-8"))


def page(documents: list[dict[str, Any]], missing: list[str]) -> str:
    """docs/benchmarks.md from the JSON documents, and the names of benchmarks that could not be run."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`: medians, each taken only after the check in its row passed. What the figures of a model mean is in",
        "[evaluation.md](evaluation.md).",
        "",
        *([f"Not run here: {', '.join(missing)}.", ""] if missing else []),
    ]
    for document in documents:
        versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
        times = {1: "once"}.get(document["repetitions"], f"{document['repetitions']} times")
        lines += [f"## {document['benchmark']}", "", f"Measured {times}. {document['device']}. {versions}.", ""]
        lines += ["| case | metric | value | peer | goal | holds | checked by |", "| --- | --- | --- | --- | --- | --- | --- |"]
        for row in document["rows"]:
            holds = {None: "", True: "yes", False: "no"}[row["holds"]]
            peer = "" if row["peer"] is None else f"{row['peer']:.4g} (ratio {row['ratio']:.2f})"
            value = f"{row['value']:.4g} {row['unit']}".strip()
            lines.append(f"| {row['case']} | {row['metric']} | {value} | {peer} | {row['goal']} | {holds} | {row['check']} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""Documents by levels beside all at once: the pretraining of four overlays on the built-in corpus, measured on the same held-out documents.
`python -m benchmarks.progression [--quick] [--repetitions SEEDS] [--json FILE]`. A study without a goal; what came out is in
docs/progressive.md.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import Row, options, publish
from benchmarks.training_line import ROOT, Corpus, trained
from components.data.held_out import HeldOutRows
from components.launch.warm import warm_ranks
from components.params import Params, parse
from components.run.parameters import merged
from components.training.guards.journal import read_journal
from components.training.supervise import RANK_MODULE
from components.training.validation.held_out import ModelHeldOut
from components.training.validation.validation import Tally
from model.build import load_model

OVERLAYS = ("interleaved", "staged", "progressive_fixed", "progressive")
MEASURES = ("text_loss", "image_loss", "stop_accuracy", "placement_accuracy")
ROWS = 32
"""Held-out rows of each name that a finished model is measured on at most; the trainings look at fewer."""


def main() -> None:
    asked = options("progression")
    torch.set_num_threads(1)
    overrides = ("pretrain.ranks=1", *(("pretrain.rows_per_step=2", "pretrain.validation.rows=1") if asked.quick else ()))
    with tempfile.TemporaryDirectory() as folder, warm_ranks(os.environ, ROOT, Path(folder) / "zygote.log") as warm:
        rows = measure(Path(folder), [parse(merged(ROOT, name, overrides)) for name in OVERLAYS], asked.repetitions, warm)
    publish("progression", rows, asked)


def measure(folder: Path, overlays: list[Params], seeds: int, warm: Mapping[str, str]) -> list[Row]:
    """Held-out means by level and the moves of each overlay, over so many seeds."""
    budgets = {params.pretrain.token_budget for params in overlays}
    if len(budgets) > 1:
        raise ValueError(f"the overlays train {budgets} tokens; they cannot be compared")
    corpus = Corpus.prepare(folder / "corpus", overlays[-1].data, folder / "input")
    found: dict[tuple[str, str], list[float]] = {}
    for name, params in zip(OVERLAYS, overlays, strict=True):
        for seed in range(seeds):
            work = folder / name / str(seed)
            trained(corpus.pretraining(params.model_copy(update={"seed": seed}), work), RANK_MODULE, warm)
            for metric, value in held_out(corpus, work, overlays[-1]).items():
                found.setdefault((metric, name), []).append(value)
            for entry in read_journal(work / "events.jsonl")[0]:
                moved = f"{entry.kind} at step {entry.step}, level {entry.values['level']}"
                print(f"{name}, seed {seed}: {moved}{_because(entry.values)}", flush=True)
    check = f"every overlay trained {budgets.pop()} tokens; {seeds} seeds"
    rows = []
    for (metric, name), values in sorted(found.items(), key=lambda each: each[0][0]):
        plain, own = statistics.median(found[metric, OVERLAYS[0]]), statistics.median(values)
        peer, ratio = (plain, own / plain if plain else None) if name != OVERLAYS[0] else (None, None)
        rows.append(Row(f"{metric}, {name}", f"{min(values):.3g} to {max(values):.3g}", own, "", check, peer=peer, ratio=ratio))
    return rows


def _because(values: Mapping[str, Any]) -> str:
    """The held-out values that decided a move, where values did."""
    found = {name.removeprefix("validation/"): round(value, 3) for name, value in values["because"].items()}
    return f", because of {found}" if found else ""


def held_out(corpus: Corpus, work: Path, leveled: Params) -> dict[str, float]:
    """Means of the trained model by level of `leveled`, whatever its own training had."""
    model, settings = load_model(work / "export").eval(), leveled.pretrain
    many = settings.model_copy(update={"validation": settings.validation.model_copy(update={"rows": ROWS})})
    rows = HeldOutRows(corpus.index, corpus.shards, many, model.config.shape, 0)
    batches = ModelHeldOut(rows, model.config, settings.rows_per_step, settings.progression.levels)
    tally = Tally(batches)
    with torch.no_grad():
        for batch, _ in batches.batches(0, 1):
            tally.add(batch, model(*batch.arguments))
    means = tally.read()
    names = [f"validation/bucket_{level}/{measure}" for level in batches.buckets for measure in MEASURES]
    return {name.removeprefix("validation/"): means[name] for name in names if name in means}


if __name__ == "__main__":
    main()

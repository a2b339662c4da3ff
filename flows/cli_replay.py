"""`mmfs replay`: one training step executed again, and a page about it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.cli_output import Json, out, print_json, print_table, repository_root, working

if TYPE_CHECKING:
    from components.replay import Replayed

DIFFERENT = 1
Stage = Literal["pretrain", "vqa", "grounding", "segmentation", "story"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(replay)


def replay(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run, a unique beginning of its name, or `latest`.", show_default=False)],
    step: Annotated[int, typer.Option(min=1, help="The optimizer step, counted from 1 as in MLflow.", show_default=False)],
    stage: Annotated[Stage, typer.Option(help="The training stage, a task for its fine-tuning.", metavar="STAGE")] = "pretrain",
    from_start: Annotated[bool, typer.Option("--from-start", help="Go back to the stage's start where no checkpoint is left.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where the page goes; else into .mmfs/replays.", dir_okay=False, show_default=False),
    ] = None,
    json_: Json = False,
) -> None:
    """Execute one training step again, bit by bit as it was, from the checkpoint before it, and show its documents, losses and gradients.

    Nothing is written into the run. The exit status is 1 where a logged number came out otherwise.

    Example: `mmfs replay latest --step 120`
    """
    root = repository_root()
    os.environ["MMFS_ROOT"] = str(root)
    with working(f"Executing step {step} of {stage} again"):
        from components.replay import replay as execute
        from components.replay_page import file_name, render
        from components.run.filetree import write_whole
        from components.run.record import RunRecords
        from components.settings import Settings, quiet

        quiet(os.environ)
        settings = Settings()
        known = RunRecords(settings.home).find(run)
        replays = settings.home.folder / "replays"
        replays.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=replays) as scratch:
            found = execute(settings, known.run_id, stage, step, Path(scratch), from_start)
        page = output or replays / file_name(found)
        write_whole(page, render(found))
    if json_:
        print_json(_as_json(found, page))
    else:
        _show(found, page)
    if found.differing:
        raise typer.Exit(DIFFERENT)


def _as_json(found: Replayed, page: Path) -> dict[str, Any]:
    return {
        "run": found.run_id,
        "stage": found.stage,
        "step": found.step,
        "since": found.since,
        "ranks": found.ranks,
        "identical": not found.differing,
        "compared": [{"step": one.step, "name": one.name, "logged": one.logged, "replayed": one.replayed} for one in found.compared],
        "text_loss": found.mean("text"),
        "image_loss": found.mean("image"),
        "gradient_norm": found.gradient_norm,
        "documents": [one["id"] for document in found.documents for one in document["documents"]],
        "remarks": list(found.remarks),
        "page": str(page.resolve()),
    }


def _show(found: Replayed, page: Path) -> None:
    start = f"the checkpoint of step {found.since}" if found.since else "the stage's start"
    out().print(f"step {found.step} of {found.stage} of run {found.run_id}, from {start} on {found.ranks} ranks in {found.seconds:.0f} s")
    if found.differing:
        rows = [(one.step, one.name, repr(one.logged), repr(one.replayed)) for one in found.differing]
        print_table(("step", "number", "logged", "executed again"), rows)
    elif found.compared:
        out().print(f"{len(found.compared)} logged numbers of these steps, all equal bit for bit")
    else:
        out().print("none of these steps was logged: there is nothing to compare with")
    for remark in found.remarks:
        out().print(f"remark: {remark}")
    out().print(f"page: {page}")

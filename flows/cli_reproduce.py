"""`mmfs reproduce`: rebuild a model from its lineage and say what differs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from flows.cli_output import Json, out, print_json, print_table, repository_root

DIFFERENT = 1


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(reproduce)


def reproduce(
    model: Annotated[str, typer.Argument(help="A registered version, such as models:/mmfs-vqa@champion.", show_default=False)],
    source: Annotated[
        str | None, typer.Option(help="Take the source of this git revision instead of the run's.", metavar="REV", show_default=False)
    ] = None,
    json_: Json = False,
) -> None:
    """Run everything again from a model's lineage (commit, patch, data, parameters) and compare metrics and weights.

    Nothing is taken from a cache. The exit status is 0 for identical, 1 for different.

    With --source, see whether your change of the code changes the weights.

    Example: `mmfs reproduce models:/mmfs-vqa@champion`
    """
    root = repository_root()
    from flows.cli_progress import stage_bars
    from flows.local import reproduce as rebuild

    with stage_bars() as watch:
        result = rebuild(root, model, watch, source)
    if json_:
        print_json(asdict(result))
    else:
        console = out()
        console.print(f"{result.model} version {result.version} of run {result.run_id}: {'identical' if result.identical else 'different'}")
        console.print(f"every stage ran: {', '.join(result.stages_run)} ({result.seconds:.0f} s)")
        console.print(f"  mmfs      {result.name}")
        console.print(f"  Prefect   flow run {result.prefect_flow_run_id}")
        console.print(f"  MLflow    run {result.mlflow_run_id}")
        console.print(f"  DVC       experiment {result.run_id}, the original's")
        for remark in result.remarks:
            console.print(f"note: {remark}")
        if result.differences:
            rows = [(one.stage, one.what, one.original, one.reproduced) for one in result.differences]
            print_table(("stage", "what", "original", "reproduced"), rows)
    if not result.identical:
        raise typer.Exit(DIFFERENT)

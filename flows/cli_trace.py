"""`mmfs trace` and `mmfs takedown`: what saw a document, and how it leaves."""

from __future__ import annotations

import getpass
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli_output import Json, out, print_json, print_table, repository_root, working

if TYPE_CHECKING:
    from components.settings import Settings
    from components.trace import Trace

Document = Annotated[
    str, typer.Argument(metavar="DOCUMENT", help="Id of a document, as in the index and in quarantine.jsonl.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(trace)
    app.command()(takedown)


def trace(document: Document, json_: Json = False) -> None:
    """Name every run, step and model version that saw a document. Computed from the pinned index and the parameters of each run.

    Example: `mmfs trace train-question-000017`
    """
    with working("Asking MLflow for the runs") as tell:
        from components.trace import trace as trace_document

        found = trace_document(_settings(), document, tell)
    if json_:
        print_json(_as_json(found))
    else:
        _show(found)


def takedown(
    document: Document,
    reason: Annotated[str, typer.Option(help="Why, for the record.", show_default=False)],
    json_: Json = False,
) -> None:
    """Take a document out of the next data version, and flag the runs and model versions that saw it (tag mmfs.takedown).

    It is written to takedowns.jsonl, on which `prepare` depends: commit that file. Shards of versions that were made before keep the
    document until `dvc gc` removes them from cache and remote.

    Example: `mmfs takedown mmc4-3f9c --reason "asked for by its author"`
    """
    with working("Asking MLflow for the runs") as tell:
        from components.trace import take_down

        done, found = take_down(_settings(), document, reason, getpass.getuser(), tell)
    if json_:
        print_json(_as_json(found) | {"takedown": done.model_dump()})
        return
    _show(found)
    out().print(f"{document} is in takedowns.jsonl: git add it and commit; the next `mmfs run` is without the document")


def _settings() -> Settings:
    root = repository_root()
    os.environ["MMFS_ROOT"] = str(root)
    from components.settings import Settings, quiet

    quiet(os.environ)
    return Settings()


def _as_json(found: Trace) -> dict[str, Any]:
    return asdict(found) | {"untraced": [{"run": run, "reason": reason} for run, reason in found.untraced]}


def _show(found: Trace) -> None:
    if found.seen:
        columns = ("run", "stage", "times", "first step", "last step", "epochs")
        print_table(columns, [(one.run_id, one.stage, one.times, one.first_step, one.last_step, one.epochs) for one in found.seen])
    else:
        out().print(f"no run with a lineage saw {found.document}")
    if found.models:
        out().print(f"models that saw it: {', '.join(found.models)}")
    for run, reason in found.untraced:
        out().print(f"run {run} could not be looked through: {reason}")

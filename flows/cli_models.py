"""`mmfs models`, `promote` and `rollback`: the registry, with the ledger that decides."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli_output import Json, application, out, print_json, print_table, repository_root, working
from flows.cli_steps import Run, Stage, Step, committed_step

if TYPE_CHECKING:
    from components.promote import Promotions
    from components.registry.ledger import Entry

Model = Annotated[str, typer.Argument(help="Registered model, such as mmfs-vqa, or its task, such as vqa.", show_default=False)]
Reason = Annotated[str | None, typer.Option(help="Why, for the ledger.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    models = application("List the registered models, register a step of a run, or compare aliases with the ledger.")
    models.command("list")(list_models)
    models.command("register")(register_step)
    models.command("verify")(verify)
    app.add_typer(models, name="models")
    app.command()(promote)
    app.command()(rollback)


def list_models(json_: Json = False) -> None:
    """List every version of every model with its aliases, the ledger's last decision about it and the run it comes from.

    The run's name is the same in Prefect, MLflow (tag mmfs.run_id) and DVC (`dvc exp show`).

    Example: `mmfs models list --json | jq -r '.[] | select(.aliases | index("champion")).uri'`
    """
    with _promotions("Asking the registry") as promotions:
        found = listed(promotions)
    if json_:
        print_json(found)
    elif not found:
        out().print("no model is registered yet; `mmfs run` trains some")
    else:
        columns = ("model", "version", "aliases", "decision", "run", "MLflow", "digest")
        print_table(columns, [_row(one) for one in found])


def register_step(
    run: Run,
    step: Step,
    stage: Stage = "pretrain",
    task: Annotated[str | None, typer.Option(help="The model's task; the stage's own where absent.", show_default=False)] = None,
    json_: Json = False,
) -> None:
    """Register the weights of a committed checkpoint as a model version, with the run, step and checkpoint they come from.

    The checkpoint is kept from then on, as long as its training is. Scores that `mmfs evaluate` logged become evidence of the version.

    Example: `mmfs models register latest --step 100`
    """
    with committed_step(run, stage, step, "Registering") as (settings, committed):
        from components.register_step import register_step as make

        found = make(settings, committed, task)
    if json_:
        print_json(asdict(found))
    else:
        made = "is registered as" if found.created else "has the weights of"
        out().print(f"step {found.step} of {stage} {made} {found.model} version {found.version} (checkpoint {found.checkpoint[:12]})")


def verify(json_: Json = False) -> None:
    """Check the ledger's chain and that every alias in the registry is what the ledger says. The exit status is 1 when not.

    Example: `mmfs models verify`
    """
    with _promotions("Reading the ledger") as promotions:
        models = promotions.ledger.models()
        drifts = [drift for model in models for drift in promotions.verify(model)]
    if json_:
        print_json({"models": models, "differences": [asdict(drift) for drift in drifts]})
    elif not drifts:
        out().print(f"{len(models)} models agree with the ledger")
    else:
        print_table(
            ("model", "alias", "ledger", "registry"),
            [(one.model, one.alias, one.ledger or "none", one.registry or "none") for one in drifts],
        )
    if drifts:
        raise typer.Exit(1)


def promote(
    model: Model, version: Annotated[int, typer.Argument(min=1, show_default=False)], reason: Reason = None, json_: Json = False
) -> None:
    """Make a version the champion, whatever the gate said. The ledger keeps who did it and why.

    Example: `mmfs promote vqa 3 --reason "checked by hand on our own pictures"`
    """
    with _promotions("Writing the ledger") as promotions:
        entry = promotions.promote(_registered(model), version, getpass.getuser(), reason or "promoted by hand")
    _show(entry, f"{entry.model} version {entry.version} is the champion", json_)


def rollback(model: Model, reason: Reason = None, json_: Json = False) -> None:
    """Put the previous champion back in charge.

    Example: `mmfs rollback vqa --reason "reads 7 as 1"`
    """
    with _promotions("Writing the ledger") as promotions:
        entry = promotions.rollback(_registered(model), getpass.getuser(), reason or "rolled back by hand")
    _show(entry, f"{entry.model} version {entry.version} was taken down; its predecessor is the champion again", json_)


@contextmanager
def _promotions(text: str) -> Iterator[Promotions]:
    root = repository_root()
    os.environ["MMFS_ROOT"] = str(root)
    with working(text):
        from components.promote import open_promotions
        from components.settings import Settings, quiet

        quiet(os.environ)
        yield open_promotions(Settings())


def listed(promotions: Promotions) -> list[dict[str, Any]]:
    """Every version of every model, the latest first, as JSON values. Raises LedgerError when a ledger's chain is broken."""
    client = promotions.client
    models = sorted(client.search_registered_models("name LIKE 'mmfs-%'"), key=lambda one: one.name)
    decided = {model.name: {entry.version: entry.kind for entry in promotions.ledger.entries(model.name)} for model in models}
    return [
        {
            "model": model.name,
            "version": int(version.version),
            "uri": f"models:/{model.name}/{version.version}",
            "aliases": sorted(alias for alias, number in model.aliases.items() if int(number) == int(version.version)),
            "decision": decided[model.name].get(int(version.version), ""),
            "digest": version.tags.get("mmfs.model_digest", ""),
            "run": version.tags.get("mmfs.run_id", ""),
            "mlflow_run_id": version.run_id or "",
        }
        for model in models
        for version in sorted(client.search_model_versions(f"name = '{model.name}'"), key=lambda one: -int(one.version))
    ]


def _row(one: dict[str, Any]) -> tuple[object, ...]:
    aliases = ", ".join(one["aliases"])
    return (one["model"], one["version"], aliases, one["decision"], one["run"], one["mlflow_run_id"][:8], one["digest"][:12])


def _registered(name: str) -> str:
    return name if name.startswith("mmfs-") else f"mmfs-{name}"


def _show(entry: Entry, sentence: str, as_json: bool) -> None:
    if as_json:
        print_json(entry.model_dump(mode="json"))
    else:
        out().print(f"{sentence} (ledger entry {entry.number}, run {entry.run_id})")

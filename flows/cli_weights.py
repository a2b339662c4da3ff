"""`mmfs weights`: the bytes of models, which DVC does not hold."""

from __future__ import annotations

import os

import typer

from flows.cli_output import NOT_FOUND, CommandError, Json, application, print_json, print_table, repository_root, working


def register(app: typer.Typer) -> None:
    """Add the commands."""
    weights = application("Fetch the bytes of models; `dvc pull` fetches everything else.")
    weights.callback()(_group)
    weights.command("pull")(pull)
    app.add_typer(weights, name="weights")


def _group() -> None:
    """Fetch the bytes of models; `dvc pull` fetches everything else."""


def pull(json_: Json = False) -> None:
    """Fetch the bytes of every weights.json below outputs/ from MLflow into .mmfs/weights, each file checked by its sha256.

    Example: `mmfs weights pull`
    """
    root = repository_root()
    os.environ["MMFS_ROOT"] = str(root)
    records = sorted((root / "outputs").rglob("weights.json"))
    if not records:
        raise CommandError(f"there is no weights.json below {root / 'outputs'}", "run `dvc pull`, or `dvc exp apply RUN` first", NOT_FOUND)
    with working(f"Fetching {len(records)} models"):
        from components.settings import Settings, quiet
        from components.tracking.weights import WeightsRecord, fetch_weights

        quiet(os.environ)
        settings = Settings()
        fetched = {str(path.parent.relative_to(root)): str(fetch_weights(WeightsRecord.read(path), settings)) for path in records}
    if json_:
        print_json(fetched)
    else:
        print_table(("stage's outs", "weights"), list(fetched.items()))

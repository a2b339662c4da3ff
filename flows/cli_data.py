"""`mmfs data`: what becomes a corpus, before a run."""

from __future__ import annotations

import typer

from flows import cli_curation
from flows.cli_output import application


def register(app: typer.Typer) -> None:
    """Add the commands."""
    data = application("Caption corpora and curate videos.")
    cli_curation.register(data)
    app.add_typer(data, name="data")

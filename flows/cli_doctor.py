"""`mmfs doctor`: what this machine lacks, and how to mend it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import typer

from flows.cli_output import Json, nearest_root, print_json, print_table


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(json_: Json = False) -> None:
    """Check this machine: what is there, what is missing, and how to mend it. The exit status is 1 when mmfs cannot work.

    Example: `mmfs doctor`
    """
    from flows.doctor import examine

    findings = examine(nearest_root() or Path.cwd())
    if json_:
        print_json([asdict(finding) for finding in findings])
    else:
        from rich.text import Text

        rows = [(Text(one.state, _STYLES[one.state]), one.name, one.detail, one.fix) for one in findings]
        print_table(("", "check", "finding", "fix"), rows)
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)


_STYLES = {"ok": "green", "limited": "yellow", "missing": "red"}

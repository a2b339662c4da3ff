"""Help is light and complete."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from flows.cli import app

SOURCE = Path(__file__).parents[2]
HEAVY = ("prefect", "mlflow", "dvc", "torch", "numpy", "pydantic", "yaml", "psutil")
SCRIPTED = {
    "run",
    "runs",
    "cancel",
    "up",
    "down",
    "status",
    "generate",
    "promote",
    "rollback",
    "replay",
    "reproduce",
    "doctor",
    "data add",
    "data card",
    "data show",
    "takedown",
    "trace",
    "data diff",
    "evaluate",
    "models list",
    "models register",
    "models verify",
    "data caption",
    "data curate",
    "weights pin",
    "weights pull",
    "weights import",
    "weights export",
    "weights components",
}


def commands() -> dict[str, object]:
    """Every command by its full name."""
    found: dict[str, object] = {}
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    for name, command in group.commands.items():
        below = command.commands.items() if isinstance(command, TyperGroup) else ()
        found |= {f"{name} {inner}": one for inner, one in below} if below else {name: command}
    return found


def test_help_loads_nothing_heavy() -> None:
    code = f"import sys, flows.cli; print([name for name in {HEAVY!r} if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], cwd=SOURCE, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_explains_itself_with_an_example(name: str) -> None:
    command = commands()[name]
    assert f"Example: `mmfs {name}" in (command.help or "")
    undescribed = [one.name for one in command.params if one.param_type_name == "option" and not one.help]
    assert not undescribed


def test_scripts_can_have_json() -> None:
    with_json = {name for name, command in commands().items() if any("--json" in one.opts for one in command.params)}
    assert with_json == SCRIPTED

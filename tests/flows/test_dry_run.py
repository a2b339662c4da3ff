"""`mmfs run --dry-run`: every overlay is told, nothing is written, and 13 billion parameters take no memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from components.checkpoints.folder import CheckpointFolder
from components.run.events import EventWriter
from components.run.parameters import as_yaml, merged
from components.run.workspace import Request, RunRecord
from components.settings import Settings

SOURCE = Path(__file__).parents[2]
OVERLAYS = sorted(path.stem for path in (SOURCE / "params").glob("*.yaml"))
MEMORY = """
import sys
from pathlib import Path
from components.params import parse
from components.run.parameters import merged
from components.training.recipe import stage_plans
plans = stage_plans(parse(merged(Path.cwd(), "full_13b")))
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(plans[0].parameters, int(peak.split()[1]) * 1024)
"""


def _files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if ".git/" not in path.as_posix()}


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_overlay_is_told(mmfs, repository: Path, name: str) -> None:
    before = _files(repository)
    ended = mmfs("run", "--preset", name, "--dry-run", "--json")
    assert (ended.status, _files(repository)) == (0, before)
    told = json.loads(ended.out)
    assert told["stages"][0]["stage"] == "pretrain"
    for stage in told["stages"]:
        assert stage["ranks"] * stage["accumulation"] * stage["rows_at_once"] == stage["global_batch"]
        assert stage["token_budget"] == stage["steps"] * stage["global_batch"] * stage["row_tokens"]
        assert stage["parameters"] == stage["trainable"] + sum(stage["frozen"].values())
        assert stage["trainable"] == sum(group["parameters"] for group in stage["groups"])


def test_people_read_groups_batch_budget_and_mixture(mmfs, repository: Path) -> None:
    told = mmfs("run", "--preset", "paper_13b", "--set", "tasks=[story]", "--dry-run").out
    for part in (
        "pretrain: 14,826,727,865 parameters, 1,423,979,472 trained; sees 224 px, draws 512 px",
        "360 rows of 2048 tokens = 8 ranks x 9 micro-batches x 5 rows",
        "15,000 steps, 1,000 of them warm-up; 11,059,200,000 tokens",
        "mmc4 33.3%, laion_2b 16.7%",
        "`mmfs run` would refuse this: model: pretrain: preset paper_13b draws through a Stable Diffusion autoencoder",
    ):
        assert part in told
    plain, averaged = (mmfs("run", "--dry-run", *more).out for more in ((), ("--set", "pretrain.ema_decay=0.999")))
    assert "would refuse" not in plain + averaged
    assert ("average" in plain, "average  of the weights with decay 0.999" in averaged) == (False, True)


def test_what_goes_on_has_the_parameters_of_its_run(mmfs, repository: Path) -> None:
    settings, key = Settings(root=repository), "k" * 64
    files = settings.home.run("a-run")
    RunRecord(1, "a-run", 0.0, Request("abc", None, "p" * 64)).write(files.record)
    EventWriter(files.events("pretrain")).started("pretrain", key)
    (files.folder / "params.yaml").write_text(as_yaml(merged(repository, "small", ["pretrain.steps=77"])))
    folder = CheckpointFolder(settings.work_root / key / "body" / "checkpoints")
    folder.begin(40)
    folder.commit(40, {})
    plan = json.loads(mmfs("run", "--continue", "a-run", "--set", "pretrain.ranks=1", "--dry-run", "--json").out)["stages"][0]
    small = json.loads(mmfs("run", "--preset", "small", "--dry-run", "--json").out)["stages"][0]
    assert (plan["steps"], plan["ranks"], plan["parameters"]) == (77, 1, small["parameters"])
    ended = mmfs("run", "--continue", "a-run", "--preset", "small", "--dry-run")
    assert (ended.status, "leave --preset out" in ended.err) == (64, True)


def test_a_wrong_pattern_is_named(mmfs, repository: Path) -> None:
    ended = mmfs("run", "--set", "pretrain.freeze=[visoin]", "--dry-run")
    assert ended.status == 78
    assert "pretrain.freeze: no parameter's name contains 'visoin'" in ended.err


def test_billions_of_parameters_take_no_memory() -> None:
    """The weights alone are 30 GB in half precision."""
    ended = subprocess.run([sys.executable, "-c", MEMORY], cwd=SOURCE, capture_output=True, text=True, check=True)
    parameters, peak = map(int, ended.stdout.split())
    assert parameters > 14e9
    assert peak < 2e9

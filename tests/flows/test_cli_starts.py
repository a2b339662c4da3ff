"""`mmfs run --from` and `--init`, `mmfs weights pin`, `mmfs replay`: what cannot be is said in one line, before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("run", "--from", "finetune"), 64, "--from finetune needs --init, what it starts from"),
        (("run", "--init", "nowhere"), 64, "--init 'nowhere': expected scratch, stage:pretrain, components:FOLDER"),
        (("run", "--init", "weights:nowhere"), 78, "pretrain.init_from: {root}/nowhere is no folder — name a folder that"),
        (("run", "--from", "finetune", "--init", "scratch"), 78, "pretrain.steps is 0, which takes the weights it starts from as they are"),
        (("weights", "pin", "scratch"), 64, "scratch needs no digest"),
        (("weights", "pin", "components:empty"), 78, "init_from: {root}/empty has no vision, no language, no diffusion"),
        (("replay", "latest", "--step", "3"), 66, "'latest' fits no run; `mmfs runs` lists them"),
    ],
)
def test_one_line_says_what_is_wrong(mmfs, repository: Path, arguments: tuple[str, ...], status: int, told: str) -> None:
    (repository / "empty").mkdir()
    ended = mmfs(*arguments)
    assert (ended.status, told.format(root=repository) in ended.err) == (status, True), ended.err
    assert "Traceback" not in ended.err

"""A checkpoint for other ranks, another ZeRO stage or another accumulation than those that wrote it.

`python -m components.training.checkpoints.universal CHECKPOINT FOLDER SHAPE SEED` makes FOLDER, from which ranks of SHAPE (JSON of a
`Shape`) go on. ZeRO shards go through DeepSpeed's universal form, a folder of files per parameter, and so does what one process leaves
without DeepSpeed.

What does not belong to ranks is kept bit for bit: weights, the optimizer's state, schedule, loss scale, step, the place in the data.
Generators of random numbers belong to ranks. They are seeded anew, from the step and the rank; dropout alone draws from them.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.checkpoints.manifest import COMMIT, COMPLETE, CURSOR_FILE, ENGINE, MANIFEST
from components.data.keyed import digest
from components.run.filetree import whole_folder
from components.training.averages import AVERAGE
from components.training.checkpoints.shape import Shape
from components.training.checkpoints.stored import NETWORK, stored_averages
from components.training.checkpoints.universal_form import BUFFERS, LATEST, OPTIMIZER, TAG
from components.training.random_state import save_random_state
from components.training.rank import compile_nothing

_SCALES = "MixedPrecision"
"""Where Lightning keeps the loss scale of one process."""
_MOMENTS = ("exp_avg", "exp_avg_sq")
_LIGHTNING = ("epoch", "global_step", "pytorch-lightning_version", "loops", "callbacks", "lr_schedulers")
_NOT_COPIED = shutil.ignore_patterns(ENGINE, CURSOR_FILE, MANIFEST, COMMIT, COMPLETE, "random-*.pt")


@dataclass(frozen=True)
class Held:
    """What a checkpoint holds beside the files of its trained parameters."""

    client: dict[str, Any]
    """Lightning's own state."""
    buffers: dict[str, Tensor]
    groups: list[dict[str, Any]]
    """Of the optimizer, with the names of their parameters."""
    scale: float | None
    """Of the loss, where 16-bit floats make it move."""
    step: Tensor


def convert(checkpoint: Path, folder: Path, shape: Shape, seed: int) -> None:
    """Make `folder`, whole or not at all, out of a committed checkpoint of any shape."""
    cursor = json.loads((checkpoint / CURSOR_FILE).read_text(encoding="utf-8"))
    engine = checkpoint / ENGINE
    with whole_folder(folder) as fresh:
        shutil.copytree(checkpoint, fresh, ignore=_NOT_COPIED, dirs_exist_ok=True)
        states = fresh / ENGINE / TAG
        held = _from_plain(engine, states) if engine.is_file() else _from_zero(engine / TAG, states)
        _recount(held.client, cursor, shape.micro_batches)
        if shape.zero_stage:
            _write_zero(states, held, shape)
        else:
            plain = _plain(states, held)
            shutil.rmtree(fresh / ENGINE)
            torch.save(plain, fresh / ENGINE)
        (fresh / CURSOR_FILE).write_text(json.dumps(cursor), encoding="utf-8")
        for rank in range(shape.ranks):
            torch.manual_seed(digest(seed, "ranks", cursor["step"], shape.ranks, rank) % 2**63)
            save_random_state(fresh / f"random-{rank}.pt")


def _from_zero(source: Path, states: Path) -> Held:
    """ZeRO shards as files per parameter below `states`/zero, whole and in their shapes."""
    from deepspeed.checkpoint import ds_to_universal

    alone = {"num_extract_workers": 1, "num_merge_workers": 1, "keep_temp_folder": False, "strict": True, "inject_missing_state": True}
    ds_to_universal.main(Namespace(input_folder=str(source), output_folder=str(states), **alone))
    first = _load(min(states.glob("*_model_states.pt")))
    kept = _load(states / OPTIMIZER)
    shapes = {name: shape for group in first["param_shapes"] for name, shape in group.items()}
    averages = stored_averages(source.parent)
    step = None
    for name, shape in shapes.items():
        place = states / "zero" / name
        if not (place / "step.pt").is_file():  # of stage 3, which comes as bare, flat tensors
            for key in ("fp32", *_MOMENTS):
                torch.save({"param": _load(place / f"{key}.pt").view(shape)}, place / f"{key}.pt")
            torch.save(kept["optimizer_state_dict"]["state"][0]["step"], place / "step.pt")
        if (average := averages.get(name.removeprefix(NETWORK))) is not None:  # of which DeepSpeed's converter knows nothing
            torch.save({"param": average().clone()}, place / f"{AVERAGE}.pt")
        step = _load(place / "step.pt") if step is None else step
    assert step is not None  # a training without parameters ends before it begins
    client = {key: value for key, value in first.items() if key in _LIGHTNING}
    buffers = {name: first["module"][name] for name in first["buffer_names"]}
    scaler = kept["loss_scaler"]
    scale = float(scaler.cur_scale) if scaler.dynamic else None
    return Held(client, buffers, kept["param_groups"], scale, torch.as_tensor(step))


def _from_plain(file: Path, states: Path) -> Held:
    """What one process left as files per parameter below `states`/zero."""
    held = _load(file)
    [optimizer] = held["optimizer_states"]
    trained, step = set(), torch.zeros(())
    for group in optimizer["param_groups"]:
        for number, name in zip(group["params"], group["parameters"], strict=True):
            place, moments = states / "zero" / f"{NETWORK}{name}", optimizer["state"][number]
            trained.add(place.name)
            step = moments["step"]
            place.mkdir(parents=True)
            torch.save({"param": held["state_dict"][place.name]}, place / "fp32.pt")
            for moment in (*_MOMENTS, *({AVERAGE} & moments.keys())):
                torch.save({"param": moments[moment]}, place / f"{moment}.pt")
            torch.save(step, place / "step.pt")
    buffers = {name: value for name, value in held["state_dict"].items() if name not in trained}
    client = {key: value for key, value in held.items() if key in _LIGHTNING}
    scales = held.get(_SCALES)
    return Held(client, buffers, optimizer["param_groups"], scales["scale"] if scales else None, step)


def _write_zero(states: Path, held: Held, shape: Shape) -> None:
    """What DeepSpeed looks for beside the files of the parameters, under the names of every stage."""
    from deepspeed import __version__
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

    for file in states.glob("*_model_states.pt"):
        file.unlink()
    steps = int(held.client["global_step"])
    of_ranks = {"module": {}, "dp_world_size": shape.ranks, "mp_world_size": 1, "global_steps": steps, "skipped_steps": 0}
    for name in ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt"):
        torch.save(held.client | of_ranks | {"ds_version": __version__}, states / name)
    groups = [{key: value for key, value in group.items() if key != "params"} for group in held.groups]
    kept = {"param_groups": groups, "ds_version": __version__}
    kept["optimizer_state_dict"] = {"state": {0: {"step": held.step}}, "param_groups": groups}  # where stage 3 looks
    if held.scale is not None:
        kept |= {"loss_scaler": DynamicLossScaler(held.scale, 1000, 1, 2, False), "dynamic_loss_scale": True, "overflow": False}
    torch.save(kept, states / OPTIMIZER)
    torch.save(held.buffers, states.parent / BUFFERS)
    (states.parent / LATEST).write_text(TAG, encoding="ascii")


def _plain(states: Path, held: Held) -> dict[str, Any]:
    """What Lightning reads in one process."""
    weights, groups = dict(held.buffers), []
    state: dict[int, dict[str, Tensor]] = {}
    for group in held.groups:
        first = len(state)
        for name in group["parameters"]:
            place = states / "zero" / f"{NETWORK}{name}"
            weights[place.name] = _load(place / "fp32.pt")["param"]
            kept = [moment for moment in (*_MOMENTS, AVERAGE) if (place / f"{moment}.pt").exists()]
            moments = {moment: _load(place / f"{moment}.pt")["param"] for moment in kept}
            state[len(state)] = {"step": held.step.to(torch.float32).clone(), **moments}
        groups.append({**group, "params": list(range(first, len(state)))})
    scales = {} if held.scale is None else {_SCALES: torch.amp.GradScaler("cpu", init_scale=held.scale).state_dict()}
    return held.client | {"state_dict": weights, "optimizer_states": [{"state": state, "param_groups": groups}]} | scales


def _recount(client: dict[str, Any], cursor: dict[str, Any], micro_batches: int) -> None:
    """Lightning and the meter count micro-batches, of which as many steps now have others."""
    progress = client["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    before = progress["current"]["ready"] // cursor["step"]
    for counts in (progress["total"], progress["current"]):
        moved = cursor["step"] * (micro_batches - before)
        counts |= {name: value + moved for name, value in counts.items()}
    meter = cursor["meter"]
    meter["micro_batches"] = meter["micro_batches"] // before * micro_batches


def _load(file: Path) -> Any:
    return torch.load(file, map_location="cpu", weights_only=True)


def main(checkpoint: str, folder: str, shape: str, seed: str) -> None:
    """Convert; of all classes only the few that DeepSpeed itself writes are unpickled, whatever it asks torch for."""
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    sys.modules["mlflow"] = None  # type: ignore[assignment]
    compile_nothing()
    from components.training.strategy import CHECKPOINT_CLASSES

    with torch.serialization.safe_globals(CHECKPOINT_CLASSES):
        convert(Path(checkpoint), Path(folder), Shape(**json.loads(shape)), int(seed))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The released weights in and out: a folder of `*.bin` files of the official code to safetensors with a configuration, and back.

One shard is in memory at a time, and nothing but tensors is unpickled.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from components.component_files import write_record
from components.frozen_parts import ADDED, EMBEDDINGS, FrozenFile, FrozenFolders, frozen_files
from components.public_components import Progress
from components.run.filetree import whole_folder
from components.tracking.weights import file_sha256
from components.vae_names import current_name, current_shape
from model.ablations import at_input
from model.build import CONFIG_FILE, build_on_meta
from model.config import ModelConfig, load_config, save_config
from model.input_size import POSITIONS, at_grid
from model.presets import preset
from model.weights import OPTIONAL_KEYS, WeightsError, check_fit, check_new, read_weights, weights_files, write_weights

(_POSITION_IDS,) = OPTIONAL_KEYS
_PART = re.compile(r"-\d{5}-of-(\d{5})\.bin$")
NOTHING_FROZEN = FrozenFolders()


@dataclass(frozen=True)
class Imported:
    """What came in: files and tensors read, values in all, what was renamed or left out, and what public folders gave, by file."""

    files: int
    tensors: int
    values: int
    renamed: tuple[str, ...]
    left_out: tuple[str, ...]
    from_public: dict[str, int]


def import_release(
    source: Path, target: Path, preset_name: str, image_px: int | None, progress: Progress, frozen: FrozenFolders = NOTHING_FROZEN
) -> Imported:
    """Turn the `*.bin` files of `source` into a folder that `model.build.load_model` reads; whole or not at all.

    The vocabulary's size follows from the embeddings. With `image_px` the position table is resized for inputs of that side. What the
    files leave out is taken from the folders of `frozen`, whose files are then pinned by their digests in components.json.
    Raises WeightsError naming a file that holds no plain tensors, or tensors that are missing, unknown or of another shape; ConfigError for
    an unknown preset.
    """
    files = _files(source)
    check_new(target)
    shapes: dict[str, tuple[int, ...]] = {}
    renamed: list[str] = []
    values = 0
    steps = 2 * len(files)
    for number, path in enumerate(files, 1):
        for name, shape in _listed(path).items():
            new = current_name(name)
            if new in shapes:
                raise WeightsError(f"{path}: {name} stands in another file of {source} as well; remove the older files")
            renamed += [name] if new != name else []
            shapes[new] = shape
            values += math.prod(shape)
        progress(f"{path.name} read", number, steps)
    config = _config(shapes, preset_name)
    public = _given(frozen_files(frozen), shapes)
    check_fit(_shapes(config), shapes | {name: file.shapes[name] for file, names in public for name in names})
    wanted = config if image_px is None else at_input(config, image_px)
    with whole_folder(target) as fresh:
        written = _counted(progress, len(files), steps + len(public))
        shards = chain(_converted(files, wanted, written), _from_public(public, wanted, written))
        write_weights(shards, len(files) + len(public), fresh)
        save_config(wanted, fresh / CONFIG_FILE)
        if public:
            write_record(fresh, None, {file.label: file_sha256(file.path) for file, _ in public})
    given = {file.label: len(names) for file, names in public}
    return Imported(len(files), len(shapes), values, tuple(renamed), tuple(sorted(OPTIONAL_KEYS & shapes.keys())), given)


def export_release(source: Path, target: Path, progress: Progress) -> int:
    """Write a model folder as `*.bin` files that the official code loads; the number of files. Raises WeightsError, ConfigError."""
    patches = load_config(source / CONFIG_FILE).vision.grid ** 2 + 1
    check_new(target)
    files = weights_files(source)
    with whole_folder(target) as fresh:
        number = 0
        for tensors in read_weights(source):
            number += 1  # noqa: SIM113 -- enumerate holds the last one while the next is read
            if POSITIONS in tensors:
                tensors[_POSITION_IDS] = torch.arange(patches).unsqueeze(0)
            name = "pytorch_model.bin" if len(files) == 1 else f"pytorch_model-{number:05d}-of-{len(files):05d}.bin"
            torch.save(tensors, fresh / name)
            del tensors
            progress(f"{name} written", number, len(files))
    return len(files)


def _files(source: Path) -> list[Path]:
    files = sorted(source.glob("*.bin"))
    if not files:
        raise WeightsError(f"{source} holds no *.bin file; name the folder of the released checkpoint")
    for path in files:
        if path.name == "training_args.bin":  # transformers' Trainer writes it beside the weights
            raise WeightsError(f"{path} holds a trainer's settings and no weights; remove it from the folder")
        if not path.is_file():
            raise WeightsError(f"{path} is no file; remove it from the folder")
        if (part := _PART.search(path.name)) is None:
            continue
        names = [f"{path.name[: part.start()]}-{number:05d}-of-{part[1]}.bin" for number in range(1, int(part[1]) + 1)]
        if absent := [name for name in names if not (source / name).is_file()]:
            raise WeightsError(f"{source} lacks {len(absent)} of {len(names)} files, such as {absent[0]}; download the missing files")
    return files


def _tensors(path: Path) -> dict[str, Tensor]:
    """A shard, mapped rather than read. Raises WeightsError when it is anything but dense numbers by name."""
    fix = "download it again, or remove it if it is no part of the model; nothing but plain tensors is ever loaded"
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError:
        raise
    except Exception as error:  # a damaged pickle may end in any of them
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} is no file of weights ({reason}); {fix}") from None
    if not isinstance(found, dict) or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()):
        raise WeightsError(f"{path} holds other things than tensors by name; {fix}")
    if found and all(name.startswith("module.") for name in found):
        raise WeightsError(f"{path}: all names begin with module., which a parallel wrapper adds; save the state_dict of what it wraps")
    for name, tensor in found.items():
        if tensor.layout is not torch.strided or not (tensor.is_floating_point() or name in OPTIONAL_KEYS):
            kind = f"{tensor.layout} {tensor.dtype}".replace("torch.", "")
            raise WeightsError(f"{path}: {name} is {kind}, not dense floating-point numbers; save it as such")
    return cast(dict[str, Tensor], found)


def _config(shapes: dict[str, tuple[int, ...]], name: str) -> ModelConfig:
    if EMBEDDINGS not in shapes:
        absent = sorted(_shapes(preset(name, vocab_size=1)).keys() - shapes.keys() - {EMBEDDINGS})
        others = f" and {len(absent)} others, such as {absent[0]}, are" if absent else " is"
        raise WeightsError(f"{EMBEDDINGS}{others} in none of the files, so they are not the whole model; download the missing files")
    shape = shapes[EMBEDDINGS]
    if len(shape) != 2 or shape[0] <= ADDED:
        raise WeightsError(f"{EMBEDDINGS} is {shape}, no table of a vocabulary and {ADDED} rows more; download the files again")
    return preset(name, vocab_size=shape[0] - ADDED)


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in build_on_meta(config).state_dict().items()}


def _listed(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes, as they are today, by the names that a shard has."""
    return {name: tuple(current_shape(current_name(name), tensor).shape) for name, tensor in _tensors(path).items()}


def _counted(progress: Progress, done: int, total: int) -> Callable[[str], None]:
    """Counts on from `done` each time that it is told a step."""
    numbers = count(done + 1)
    return lambda told: progress(told, next(numbers), total)


def _converted(files: list[Path], config: ModelConfig, progress: Callable[[str], None]) -> Iterator[dict[str, Tensor]]:
    for path in files:
        yield _current(path, config)  # held by no name here, so that it is gone when the next is read
        progress(f"{path.name} converted")


def _current(path: Path, config: ModelConfig) -> dict[str, Tensor]:
    """A shard under today's names and in today's shapes, for the configured grid."""
    named = {current_name(name): tensor for name, tensor in _tensors(path).items()}
    return {
        name: at_grid(name, current_shape(name, tensor), config.vision.grid) for name, tensor in named.items() if name not in OPTIONAL_KEYS
    }


def _given(files: list[FrozenFile], shapes: Container[str]) -> list[tuple[FrozenFile, set[str]]]:
    """The files that hold what `shapes` lacks, and what that is."""
    lacking = [(file, {name for name in file.keys if name not in shapes}) for file in files]
    return [(file, names) for file, names in lacking if names]


def _from_public(
    public: list[tuple[FrozenFile, set[str]]], config: ModelConfig, progress: Callable[[str], None]
) -> Iterator[dict[str, Tensor]]:
    for file, names in public:
        yield {name: at_grid(name, tensor, config.vision.grid) for name, tensor in file.tensors(names, config.frozen_head_bias).items()}
        progress(f"{file.label} taken")

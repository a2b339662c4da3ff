"""The released weights in and out: a folder of `*.bin` files of the official code to safetensors with a configuration, and back.

One shard is in memory at a time, and nothing but tensors is unpickled.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from components.run.filetree import whole_folder
from model.ablations import at_input
from model.build import CONFIG_FILE, build_on_meta
from model.config import ModelConfig, load_config, save_config
from model.positions import sincos_2d
from model.presets import preset
from model.weights import OPTIONAL_KEYS, WeightsError, check_fit, check_new, read_weights, weights_files, write_weights

_HEAD = "text_decoder.head.weight"
_FIXED_POSITIONS = "visual_tokenizer.pos_embed"
_POSITIONS = "visual_tokenizer.encoder.vision_model.embeddings.position_embedding.weight"
(_POSITION_IDS,) = OPTIONAL_KEYS
# The attention of the autoencoder had other names before diffusers 0.18, and its linear layers were 1x1 convolutions.
_OLD_VAE = re.compile(r"^(image_decoder\.decoder\.vae\..*\.attentions\.\d+\.)(query|key|value|proj_attn)\.(weight|bias)$")
_NEW_VAE = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Imported:
    """What came in: files and tensors read, values in all, and what was renamed or left out."""

    files: int
    tensors: int
    values: int
    renamed: tuple[str, ...]
    left_out: tuple[str, ...]


def import_release(source: Path, target: Path, preset_name: str, image_px: int | None, progress: Progress) -> Imported:
    """Turn the `*.bin` files of `source` into a folder that `model.build.load_model` reads; whole or not at all.

    The vocabulary's size follows from the text head. With `image_px` the position table is resized for inputs of that side.
    Raises WeightsError naming a file that holds no plain tensors, or tensors that are missing, unknown or of another shape; ConfigError for
    an unknown preset.
    """
    files = _files(source)
    check_new(target)
    shapes: dict[str, tuple[int, ...]] = {}
    renamed: list[str] = []
    values = 0
    for path in files:
        for name, tensor in _tensors(path).items():
            new = current_name(name)
            if new in shapes:
                raise WeightsError(f"{path}: {name} stands in another file of {source} as well; remove the older files")
            renamed += [name] if new != name else []
            shapes[new] = tuple(_current_shape(new, name, tensor).shape)
            values += tensor.numel()
        progress(f"{path.name} read")
    config = _config(shapes, preset_name)
    check_fit(_shapes(config), shapes)
    wanted = config if image_px is None else at_input(config, image_px)
    with whole_folder(target) as fresh:
        write_weights(_converted(files, wanted, progress), len(files), fresh)
        save_config(wanted, fresh / CONFIG_FILE)
    return Imported(len(files), len(shapes), values, tuple(renamed), tuple(sorted(OPTIONAL_KEYS & shapes.keys())))


def export_release(source: Path, target: Path, progress: Progress) -> int:
    """Write a model folder as `*.bin` files that the official code loads; the number of files. Raises WeightsError, ConfigError."""
    patches = load_config(source / CONFIG_FILE).vision.grid ** 2 + 1
    check_new(target)
    files = weights_files(source)
    with whole_folder(target) as fresh:
        for number, tensors in enumerate(read_weights(source), 1):
            if _POSITIONS in tensors:
                tensors[_POSITION_IDS] = torch.arange(patches).unsqueeze(0)
            name = "pytorch_model.bin" if len(files) == 1 else f"pytorch_model-{number:05d}-of-{len(files):05d}.bin"
            torch.save(tensors, fresh / name)
            progress(f"{name} written")
    return len(files)


def current_name(name: str) -> str:
    """The name that today's libraries give a tensor of the release."""
    return _OLD_VAE.sub(lambda old: f"{old[1]}{_NEW_VAE[old[2]]}.{old[3]}", name)


def resized_positions(table: Tensor, grid: int) -> Tensor:
    """CLIP's position table [1 + s * s, width] for another grid, as the official loader does: bicubic, corners not aligned."""
    old = int((len(table) - 1) ** 0.5)
    maps = table[1:].float().T.reshape(1, -1, old, old)
    cells = F.interpolate(maps, size=(grid, grid), mode="bicubic", align_corners=False).flatten(2)[0].T
    return torch.cat((table[:1], cells.to(table.dtype)))


def _at_grid(name: str, tensor: Tensor, grid: int) -> Tensor:
    """Tables that count patches, for a grid of this side."""
    if name not in (_POSITIONS, _FIXED_POSITIONS) or len(tensor) == grid**2 + 1:
        return tensor
    if name == _POSITIONS:
        return resized_positions(tensor, grid)
    return torch.cat((tensor[:1], sincos_2d(grid, tensor.shape[1]).to(tensor.dtype)))


def _files(source: Path) -> list[Path]:
    files = sorted(source.glob("*.bin"))
    if not files:
        raise WeightsError(f"{source} holds no *.bin file; name the folder of the released checkpoint")
    return files


def _tensors(path: Path) -> dict[str, Tensor]:
    """A shard, mapped rather than read. Raises WeightsError when it is anything but tensors by name."""
    fix = "download the file again; nothing but plain tensors is ever loaded"
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} is no file of weights ({reason}); {fix}") from None
    if not isinstance(found, dict) or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()):
        raise WeightsError(f"{path} holds other things than tensors by name; {fix}")
    return cast(dict[str, Tensor], found)


def _current_shape(new: str, old: str, tensor: Tensor) -> Tensor:
    """A tensor in today's shape: what was a 1x1 convolution is a linear layer now."""
    return tensor.flatten(1) if new != old and tensor.ndim == 4 else tensor


def _config(shapes: dict[str, tuple[int, ...]], name: str) -> ModelConfig:
    if _HEAD not in shapes:
        raise WeightsError(f"{_HEAD} is in none of the files, so they are not the whole model; download the missing files")
    return preset(name, vocab_size=shapes[_HEAD][0] - 2)


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in build_on_meta(config).state_dict().items()}


def _converted(files: list[Path], config: ModelConfig, progress: Progress) -> Iterator[dict[str, Tensor]]:
    for path in files:
        shard = {}
        for name, tensor in _tensors(path).items():
            new = current_name(name)
            if new in OPTIONAL_KEYS:
                continue
            shard[new] = _at_grid(new, _current_shape(new, name, tensor), config.vision.grid)
        yield shard
        progress(f"{path.name} converted")

"""What a checkpoint may leave out because nobody trained it: taken from the public folders it came from, a file at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from components.component_files import opened, safetensors_files
from components.public_components import language_name, vae_name, vision_name
from components.vae_names import current_shape

_HEAD, _HEAD_BIAS = "text_decoder.head.weight", "text_decoder.head.bias"
EMBEDDINGS = "mm_decoder.embed_tokens.weight"
"""Frozen too, but the rows of the added tokens are in the checkpoint alone."""
ADDED = 2
"""Rows behind the vocabulary, of BoI and the placeholder."""


@dataclass(frozen=True)
class FrozenFolders:
    """A CLIP or SigLIP, a language model and a diffusion pipeline; None where a checkpoint holds the part itself."""

    vision: Path | None = None
    language: Path | None = None
    diffusion: Path | None = None


@dataclass(frozen=True)
class FrozenFile:
    """One file of a public folder: its name by its role, and by the model's names what it calls its tensors and their shapes there."""

    label: str
    path: Path
    keys: dict[str, str]
    shapes: dict[str, tuple[int, ...]]

    def tensors(self, wanted: Collection[str], new_bias: float) -> dict[str, Tensor]:
        """The wanted ones. The frozen head has two further rows, zero, whose bias is `new_bias`."""
        found: dict[str, Tensor] = {}
        with opened(self.path) as file:
            for name, key in self.keys.items():
                if name not in wanted:
                    continue
                if name == _HEAD_BIAS:
                    entries = self.shapes[name][0] - ADDED
                    found[name] = torch.cat((torch.zeros(entries), torch.full((ADDED,), new_bias)))
                    continue
                tensor = current_shape(name, file.get_tensor(key))
                found[name] = F.pad(tensor, (0, 0, 0, ADDED)) if name == _HEAD else tensor
        return found


def frozen_files(folders: FrozenFolders) -> list[FrozenFile]:
    """The files that hold frozen parts. Raises WeightsError for a folder without safetensors and for a broken file."""
    named: list[tuple[str, Path | None, Callable[[str], str | None]]] = [
        ("vision", folders.vision, vision_name),
        ("language", folders.language, language_name),
        ("diffusion/vae", folders.diffusion and folders.diffusion / "vae", vae_name),
    ]
    return [_file(role, path, name) for role, folder, name in named if folder for path in safetensors_files(folder)]


def _file(role: str, path: Path, name_of: Callable[[str], str | None]) -> FrozenFile:
    keys: dict[str, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    with opened(path) as file:
        for key in file.keys():  # noqa: SIM118 -- not a mapping
            name = name_of(key)
            if name is None or name == EMBEDDINGS:
                continue
            shape = tuple(current_shape(name, torch.empty(file.get_slice(key).get_shape(), device="meta")).shape)
            keys[name] = key
            shapes[name] = (shape[0] + ADDED, *shape[1:]) if name == _HEAD else shape
            if name == _HEAD:
                keys[_HEAD_BIAS] = key
                shapes[_HEAD_BIAS] = shapes[name][:1]
    return FrozenFile(f"{role}/{path.name}", path, keys, shapes)

"""The files of a public component: those that its library reads, what they hold, and their digests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from components.tracking.weights import file_sha256
from model.weights import WeightsError, weights_files

RECORD_FILE = "components.json"
VERSION = 1
_STEMS = ("model", "diffusion_pytorch_model")
"""What transformers and diffusers call a component's weights."""


def safetensors_files(folder: Path) -> list[Path]:
    """The weights of a component. Copies of another precision beside them (`*.fp16.safetensors`) are left alone, as the libraries do.

    Raises WeightsError where there is none, or where it is not clear which.
    """
    for stem in _STEMS:
        named = weights_files(folder, stem)
        if all(path.is_file() for path in named):
            return named
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise WeightsError(f"{folder} holds no *.safetensors; keep it as safetensors, as the library's save_pretrained writes it")
    if len(files) > 1:
        raise WeightsError(f"{folder} holds {len(files)} *.safetensors files and no index; fetch the index, or keep the file that is meant")
    return files


def component_files(folder: Path) -> list[Path]:
    """All that is read of a component: configuration, weights and, where there is one, their index."""
    return [folder / "config.json", *safetensors_files(folder), *folder.glob("*.safetensors.index.json")]


def digests(role: str, files: Iterable[Path]) -> dict[str, str]:
    """The sha256 of files by what they are in the model: folders may bear any names, or the same one."""
    return {f"{role}/{path.name}": file_sha256(path) for path in files}


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file to read from. Raises WeightsError for a damaged one."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise WeightsError(f"{path} is no valid safetensors file ({error}); fetch it again") from None


def tensors_of(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a file, one in memory at a time. Raises WeightsError for a damaged file."""
    with opened(path) as file:
        for key in file.keys():  # noqa: SIM118 -- not a mapping
            yield key, file.get_tensor(key)


def read_json(path: Path) -> dict[str, Any]:
    """A library's configuration. Raises WeightsError where it is missing or no mapping."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{path} is missing; name the component's own folder") from None
    except ValueError as error:
        raise WeightsError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise WeightsError(f"{path}: expected a mapping")
    return values


def write_record(folder: Path, seed: int | None, files: Mapping[str, str]) -> None:
    """Write components.json: the sha256 of every file that was read, and the seed of what began from nothing, if something did."""
    record = {"version": VERSION, "seed": seed, "files": files}
    (folder / RECORD_FILE).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")

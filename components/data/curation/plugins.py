"""MANIQA, RAFT and DINOv2 from local folders. ONNX goes through OpenCV, safetensors through transformers; nothing is
unpickled and no code of a folder is run.

A folder of MANIQA or RAFT holds an ONNX file and plugin.json, which says how pictures go in (docs/curation.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.component_files import safetensors_files
from components.tracking.weights import describe_weights
from model.weights import WeightsError

PLUGIN_FILE = "plugin.json"
VERSION = 1


class Plugin(BaseModel):
    """plugin.json: a picture is resized to `size` [height, width], divided by `scale`, has `mean` subtracted and is divided by `std`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: Literal[1]
    role: Literal["maniqa", "raft"]
    file: str = Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*\.onnx$")
    size: tuple[int, int]
    inputs: tuple[str, ...] = Field(min_length=1, max_length=2)
    output: str
    scale: float = Field(1.0, gt=0)
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


class _Network:
    """An ONNX file of a plug-in's folder."""

    def __init__(self, folder: Path, role: str, inputs: int) -> None:
        path = folder / PLUGIN_FILE
        try:
            self.plugin = Plugin.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise WeightsError(f"{path} is missing; a plug-in says there how its pictures go in (docs/curation.md)") from None
        except ValidationError as error:
            problem = error.errors()[0]
            raise WeightsError(f"{path}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None
        if self.plugin.role != role or len(self.plugin.inputs) != inputs:
            raise WeightsError(f"{path} is for {self.plugin.role} with {len(self.plugin.inputs)} inputs; expected {role} with {inputs}")
        self._path = folder / self.plugin.file
        try:
            self._net = cv2.dnn.readNetFromONNX(str(self._path))
        except cv2.error as error:
            raise WeightsError(f"{self._path} is no ONNX that OpenCV can read: {error.err}") from None
        self.name = f"{role}:{describe_weights(folder).model_digest[:16]}"

    def __call__(self, *pictures: np.ndarray) -> np.ndarray:
        """The output for uint8 [height, width, 3] pictures of any size."""
        for name, picture in zip(self.plugin.inputs, pictures, strict=True):
            self._net.setInput(self._planes(picture), name)
        try:
            output: np.ndarray = self._net.forward(self.plugin.output)
        except cv2.error as error:
            raise WeightsError(f"{self._path} does not run on pictures of {self.plugin.size}: {error.err}") from None
        if not np.isfinite(output).all():
            raise WeightsError(f"{self._path} gives values that are not finite")
        return output

    def _planes(self, picture: np.ndarray) -> np.ndarray:
        height, width = self.plugin.size
        resized = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / self.plugin.scale
        normal = (resized - np.asarray(self.plugin.mean, np.float32)) / np.asarray(self.plugin.std, np.float32)
        return np.ascontiguousarray(normal.transpose(2, 0, 1)[None], np.float32)


class Maniqa:
    """MANIQA's score of a frame. Its ONNX takes one picture and gives one number."""

    def __init__(self, folder: Path) -> None:
        self._network = _Network(folder, "maniqa", inputs=1)
        self.name = self._network.name

    def score(self, picture: np.ndarray) -> float:
        """Higher is better."""
        output = self._network(picture)
        if output.size != 1:
            raise WeightsError(f"the plug-in {self.name} gives {output.shape} for a picture, not one score")
        return float(output.ravel()[0])


class Raft:
    """RAFT's flow. Its ONNX takes two pictures and gives [1, 2, height, width], pixels of its own size."""

    def __init__(self, folder: Path) -> None:
        self._network = _Network(folder, "raft", inputs=2)
        self.name = self._network.name

    def between(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Flow float32 [height, width, 2] in pixels of the pictures, at the network's resolution."""
        output = self._network(before, after)
        if output.ndim != 4 or output.shape[:2] != (1, 2):
            raise WeightsError(f"the plug-in {self.name} gives {output.shape}, not a flow [1, 2, height, width]")
        flow = output[0].transpose(1, 2, 0)
        height, width = flow.shape[:2]
        resized: np.ndarray = cv2.resize(flow, before.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        return resized * np.asarray((before.shape[1] / width, before.shape[0] / height), np.float32)


class DinoDifference:
    """Cosine distance of a DINOv2's first token, 0 to 2."""

    def __init__(self, folder: Path) -> None:
        import torch
        from safetensors import SafetensorError
        from transformers import AutoImageProcessor, AutoModel

        safetensors_files(folder)
        try:
            self._processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            self._model = AutoModel.from_pretrained(folder, local_files_only=True, trust_remote_code=False, use_safetensors=True).eval()
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
            raise WeightsError(f"{folder} is no DINOv2 that transformers can read: {str(error).splitlines()[0]}") from None
        if not self._model.config.model_type.startswith("dinov2"):
            raise WeightsError(f"{folder} holds a {self._model.config.model_type} model; expected a DINOv2")
        self._inference = torch.inference_mode
        self.name = f"dinov2:{describe_weights(folder).model_digest[:16]}"

    def features(self, picture: np.ndarray) -> np.ndarray:
        """The first token's state, of length 1."""
        with self._inference():
            inputs = self._processor(images=picture, return_tensors="pt")
            state = self._model(**inputs).last_hidden_state[0, 0].double().numpy()
        return state / max(1e-12, float(np.linalg.norm(state)))

    def distance(self, before: np.ndarray, after: np.ndarray) -> float:
        """1 - cosine."""
        return float(1 - before @ after)

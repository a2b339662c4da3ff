"""What captioning and curation are told: every value with its unit and source. `mmfs data caption` and `curate` read it from a YAML file.

Addresses and keys are no parameters: see `components.settings`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator

from components.params import Frozen, ParamsError

Section = TypeVar("Section", bound=Frozen)
_OPEN_AT_ONCE = 64


class TextLimits(Frozen):
    """What an answer may be before it is a text of a document."""

    max_characters: int = Field(2000, ge=1, description="a longer answer is cut at a word, characters")
    min_characters: int = Field(1, ge=1, description="a shorter answer is none, characters")


class LocalModelParams(Frozen):
    """How a model of a local folder answers."""

    batch: int = Field(8, ge=1, description="requests answered at once")
    max_new_tokens: int = Field(64, ge=1, description="tokens of an answer")
    beams: int = Field(1, ge=1, description="beams; 1 is greedy. Nothing is drawn at random")
    precision: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of weights and arithmetic")


class EndpointParams(Frozen):
    """How an OpenAI-compatible endpoint is asked; its address and key are MMFS_VLM_ENDPOINT and MMFS_VLM_KEY."""

    model: str = Field("default", min_length=1, max_length=200, description="the model's name at the endpoint")
    concurrency: int = Field(4, ge=1, le=256, description="requests under way at once")
    timeout_s: float = Field(60.0, gt=0, description="for one attempt, from the request to the last byte, seconds")
    attempts: int = Field(4, ge=1, description="attempts before a request has failed")
    backoff_s: float = Field(1.0, ge=0, description="pause after the first failed attempt, doubled after each further one, seconds")
    max_backoff_s: float = Field(60.0, ge=0, description="longest pause, also where the endpoint asks for more, seconds")
    max_answer_bytes: int = Field(1_000_000, ge=1, description="a longer answer is refused, bytes")
    max_tokens: int = Field(512, ge=1, description="tokens of an answer")
    usd_per_million_input_tokens: float | None = Field(None, ge=0, description="price, for `cost_usd`; unknown where absent")
    usd_per_million_output_tokens: float | None = Field(None, ge=0, description="price, for `cost_usd`; unknown where absent")


class CaptioningParams(Frozen):
    """`mmfs data caption`."""

    prompt: str | None = Field(None, max_length=4000, description="asked with every picture; the captioner's usual one where absent")
    replace: bool = Field(False, description="caption also what has a text, which is kept in `fields.original_texts` (CC-12M in the paper)")
    max_failed_rate: float = Field(
        0.01, ge=0, le=1, description="share of pictures without a usable answer above which a shard is not written"
    )
    text: TextLimits = TextLimits()
    local: LocalModelParams = LocalModelParams()
    endpoint: EndpointParams = EndpointParams()


class WindowParams(Frozen):
    """Windows of one kind: `frames` frames, `apart_s` seconds from one to the next, a new window every `every_s` seconds."""

    frames: int = Field(ge=2, le=64, description="frames of a window; 2, 5 and 8 in ILLUME-X 4")
    apart_s: float = Field(
        ge=0, description="from a frame to the next, seconds; 1, 3 and 10 in ILLUME-X 4; 0 takes the video's own neighbours"
    )
    every_s: float | None = Field(
        None, ge=0.05, description="from the start of a window to the next, seconds; frames x apart_s where absent"
    )

    @model_validator(mode="after")
    def _few_at_once(self) -> Self:
        if self.frames * self.apart_s > _OPEN_AT_ONCE * self.stride_s:
            raise ValueError(f"more than {_OPEN_AT_ONCE} windows would be under way at once; raise every_s")
        return self

    @property
    def stride_s(self) -> float:
        """From the start of a window to the next, seconds."""
        return self.every_s or max(0.05, self.frames * self.apart_s or 1.0)


class VideoParams(Frozen):
    """What a video may be, and which frames are taken. Larger videos are quarantined."""

    windows: tuple[WindowParams, ...] = Field(
        (WindowParams(frames=2, apart_s=1.0), WindowParams(frames=5, apart_s=3.0), WindowParams(frames=8, apart_s=10.0)),
        min_length=1,
        description="kinds of windows; (frames, seconds apart) are (2, 1), (5, 3), (8, 10) of ILLUME-X 4",
    )
    side_px: int = Field(512, ge=16, description="longer side of a kept frame at most, pixels; ILLUME-X trains at 512")
    jpeg_quality: int = Field(95, ge=1, le=100, description="of the kept frames")
    max_bytes: int = Field(8_000_000_000, ge=1, description="size of a video file at most, bytes")
    max_pixels: int = Field(36_000_000, ge=1, description="pixels of a frame at most; 8K is 33 million")
    max_frames: int = Field(1_000_000, ge=1, description="frames decoded of a video at most; the rest is left and counted")
    max_windows: int = Field(1000, ge=1, description="windows of a video at most; the rest is left and counted")


class MeasureParams(Frozen):
    """One measured filter: what is at or below the threshold falls."""

    percentile: float = Field(15.0, ge=0, le=100, description="share of the pilot's values that fall, percent; the paper states none")
    threshold: float | None = Field(None, description="in the measure's unit; calibrated by `percentile` where absent")


class PilotParams(Frozen):
    """The pilot batch that thresholds come from."""

    videos: int = Field(20, ge=1, description="videos measured, drawn by key")
    windows: int = Field(200, ge=1, description="windows measured at most, over all videos")


class CaptionLevels(Frozen):
    """Three-level captions and their self-reflection (ILLUME-X 4). Prompts: components/data/curation/prompts.py."""

    rounds: int = Field(1, ge=0, le=10, description="rounds of critique and rewriting; the paper's K is not stated")
    judge_minimum: int = Field(
        6, ge=1, le=10, description="a record that the judge scores lower falls (1 to 10); the paper's is not stated"
    )
    max_failed_rate: float = Field(
        0.2, ge=0, le=1, description="share of a video's samples without usable answers above which none of its texts is kept"
    )
    judge_model: str | None = Field(
        None, max_length=200, description="model at the endpoint that criticises and judges; the captioner itself where absent"
    )
    verdict: bool = Field(True, description="ask the model whether to keep each frame (content integrity)")
    text: TextLimits = TextLimits()
    local: LocalModelParams = LocalModelParams(max_new_tokens=256)
    endpoint: EndpointParams = EndpointParams()


class CurationParams(Frozen):
    """`mmfs data curate`."""

    seed: int = Field(0, ge=0, description="draws the pilot's videos")
    name: str = Field("videos", pattern=r"^[a-z0-9_]{1,30}$", description="`source` of the documents")
    licence: str = Field("unknown", description="what allows the videos' use")
    split: Literal["train", "evaluation"] = Field("train", description="what the documents are for")
    min_frames: int = Field(2, ge=1, description="a window with fewer frames left falls")
    video: VideoParams = VideoParams()
    pilot: PilotParams = PilotParams()
    sharpness: MeasureParams = Field(MeasureParams(), description="variance of the Laplacian of the grey frame, grey values squared")
    quality: MeasureParams = Field(MeasureParams(), description="MANIQA's score, where its folder is given")
    flow_mean: MeasureParams = Field(MeasureParams(), description="mean length of the optical flow, percent of the frame's diagonal")
    flow_variance: MeasureParams = Field(MeasureParams(), description="variance of the flow's vectors, squared percent of the diagonal")
    distance: MeasureParams = Field(MeasureParams(), description="difference from the frame before, 0 to 1 for histograms, to 2 for DINOv2")
    captions: CaptionLevels = CaptionLevels()


def load_curation(path: Path | None) -> CurationParams:
    """Curation's parameters from a YAML file; the defaults without one. Raises ParamsError naming each wrong key."""
    return _load(CurationParams, path)


def load_captioning(path: Path | None) -> CaptioningParams:
    """Captioning's parameters from a YAML file; the defaults without one. Raises ParamsError naming each wrong key."""
    return _load(CaptioningParams, path)


def _load(kind: type[Section], path: Path | None) -> Section:
    if path is None:
        return kind()
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParamsError(f"{path} cannot be read: {error}") from None
    try:
        return kind.model_validate({} if values is None else values)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise ParamsError(f"{path}: {problems}") from None

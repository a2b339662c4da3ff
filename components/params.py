"""The one typed view of params.yaml: every hyper-parameter, its unit and its source.

Only this module reads the file. Endpoints and secrets are not parameters: see `components.settings`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, NonNegativeInt, ValidationError, model_validator

from components.combinations import contradictions
from components.filter_params import DecontaminationParams, FilterParams
from components.frozen import Frozen
from components.kinds import COMPOSED_KINDS as COMPOSED_KINDS
from components.kinds import Kind as Kind
from components.mixing import Weight as Weight
from components.start import Start
from components.train_params import Augmentation as Augmentation
from components.train_params import FewShotParams as FewShotParams
from components.train_params import Offload as Offload
from components.train_params import Packing as Packing
from components.train_params import ParameterGroup as ParameterGroup
from components.train_params import TrainParams as TrainParams

Task = Literal["vqa", "grounding", "segmentation", "story"]
TASKS: tuple[Task, ...] = ("vqa", "grounding", "segmentation", "story")
EvaluatedKind = Literal["caption", "question", "multi", "referring", "segmentation", "story"]
PARAMS_FILE = "params.yaml"


class ParamsError(ValueError):
    """A value in params.yaml or an override cannot be used; the message names the key and the fix."""


class CorpusParams(Frozen):
    """One corpus in its published form; docs/corpora.md lists the formats."""

    name: str = Field(pattern=r"^[a-z0-9_]{1,40}$", description="what its documents, shards and mixture weight are called")
    format: str = Field(description="how its files are read; the names stand in components/data/sources/formats.py")
    split: Literal["train", "evaluation"] = Field("train", description="what its documents are for")
    licence: str = Field("unknown", description="what allows its use, for the documents that do not say it themselves")
    options: dict[str, str | int | float | bool] = Field({}, description="what only this format knows; its Options class explains them")
    filters: FilterParams = FilterParams()


class DataParams(Frozen):
    """What the corpus is and how it becomes packed rows."""

    source: Literal["digits", "folder", "corpora"] = Field(
        "digits",
        description="`digits`: the built-in corpus; `folder`: the user's own images and documents.jsonl; `corpora`: those of data.corpora",
    )
    path: str | None = Field(None, description="the user's folder, only with source `folder`; set by `mmfs run --data PATH`")
    corpora: tuple[CorpusParams, ...] = Field((), description="the corpora to prepare, only with source `corpora`")
    decontamination: DecontaminationParams = DecontaminationParams()
    documents: dict[Kind, NonNegativeInt] = Field(description="training documents composed per kind (built-in corpus)")
    evaluation_documents: dict[Kind, NonNegativeInt] = Field(description="held-out documents composed per kind (built-in corpus)")
    stories: Literal["stated", "joint"] = Field(
        "stated",
        description="what of a story is trained: what its source says (in the paper all pictures, Table 15), or all texts and pictures but "
        "the first of each, which are given",
    )
    held_out_fraction: float = Field(0.2, gt=0, lt=1, description="share of digit scans that only the evaluation split may use")
    image_px: int = Field(32, ge=16, description="side of a composed picture, pixels")
    vocabulary_size: int = Field(
        512, ge=300, description="entries of the byte-level BPE tokenizer fitted on the training texts, before the added tokens"
    )
    tokenizer: str | None = Field(
        None, description="a tokenizer.json, such as Llama's, instead of one fitted on the training texts; pinned with the input"
    )
    shard_documents: int = Field(512, ge=1, description="documents per shard")
    shard_attempts: int = Field(3, ge=1, description="tries of an input shard before it is quarantined as a whole")
    shard_timeout_s: float = Field(3600, ge=0, description="a try of an input shard that takes longer has failed, seconds; 0 is no limit")
    window_documents: int = Field(1024, ge=1, le=65_536, description="documents that are packed together, per source")
    max_quarantine_rate: float = Field(
        0.01, ge=0, le=1, description="share of unusable documents, and of input shards, above which `prepare` fails"
    )
    max_image_pixels: int = Field(50_000_000, ge=1, description="a larger picture is quarantined, pixels")
    max_text_bytes: int = Field(1_000_000, ge=1, description="a document with a longer text is quarantined, bytes of UTF-8")
    max_document_images: int = Field(1000, ge=1, description="a document with more images is quarantined")

    @model_validator(mode="after")
    def _input_goes_with_source(self) -> Self:
        if (self.source == "folder") != (self.path is not None):
            raise ValueError("data.path is set exactly when data.source is `folder`")
        if (self.source == "corpora") != bool(self.corpora):
            raise ValueError("data.corpora is set exactly when data.source is `corpora`")
        names = [corpus.name for corpus in self.corpora]
        if len(set(names)) < len(names):
            raise ValueError("two of data.corpora have the same name")
        if unknown := sorted(set(self.decontamination.corpora) - set(names)):
            raise ValueError(f"data.decontamination.corpora names {', '.join(unknown)}, which data.corpora does not have")
        return self


class ModelParams(Frozen):
    """Which architecture: a preset of model/presets.py and what differs from it."""

    preset: Literal["smoke", "tiny", "small", "official_tiny", "ablation_3b", "release_13b", "paper_13b"] = Field(
        "tiny", description="sizes of every part, by name; they stand in model/presets.py, what each needs in docs/model.md"
    )
    cross_attention: Literal["deformable", "dense", "dense_resampler", "off"] = Field(
        "deformable", description="how tokens and pixels look at images: MMFS, all cells of the maps, their visual tokens, or not (Table 6)"
    )
    multi_scale: bool = Field(True, description="MMFS samples all its levels, or the map of the encoder's own grid only (Table 9)")
    mmfs_form: Literal["release", "paper"] = Field("release", description="MMFS as released, or Eq. 4 literally: image number, no sink")
    mmfs_wiring: Literal["skips", "upsampling"] = Field(
        "skips", description="MMFS on the UNet's skips and mid block as released, or after each up block as in the paper"
    )
    sampling_path: Literal["torch", "cpp", "triton"] = Field(
        "torch",
        description="what computes deformable sampling: pure PyTorch, the C++ operator, or Triton on a GPU; a stage ends where the one "
        "that is named is missing (docs/kernels.md)",
    )
    mmfs_linears: Literal["own", "bfloat16"] = Field(
        "own", description="what the linear layers of MMFS multiply: the weights' own type, or bfloat16, faster where hardware has it"
    )
    visible_images: Literal["nearest", "all"] = Field("all", description="images a text token may look at (Table 10)")
    decoder_images: Literal["previous", "all"] = Field("previous", description="images the image decoder may look at")
    visual_tokens: Literal["resampler", "learned"] = Field(
        "resampler", description="visual tokens of the picture, or vectors that are the same for all pictures (Table 8)"
    )
    visual_token_count: int | None = Field(
        None, ge=1, description="visual tokens per image (32, 64 or 256 in Table 5); the preset's where absent"
    )
    image_px: int | None = Field(
        None, ge=16, description="side of the encoder's input, pixels (224 or 448 in Table 5); the preset's where absent"
    )
    attention: Literal["document", "release"] = Field(
        "document", description="self-attention inside a document, or over the whole packed row as released"
    )
    text_loss_weight: float = Field(1.0, ge=0, description="weight of the text loss in Eq. 3")
    image_loss_weight: float = Field(10.0, ge=0, description="lambda of Eq. 3; 10 in Table 11")
    condition_drop: float = Field(0.1, ge=0, le=1, description="share of images whose condition is replaced by the unconditional embedding")


class FinetuneParams(Frozen):
    """One training stage per task (Tables 12 to 15)."""

    vqa: TrainParams
    grounding: TrainParams
    segmentation: TrainParams
    story: TrainParams


class SamplingParams(Frozen):
    """How pictures and text are generated."""

    steps: int = Field(20, ge=1, description="denoising steps")
    guidance: float = Field(2.0, ge=0, description="classifier-free guidance scale; 1 is none")
    image_guidance: float = Field(1.0, ge=0, description="guidance towards the images looked at; 1 is none and costs no third pass")
    scheduler: Literal["ddpm", "ddim", "dpm", "euler"] = Field("ddim", description="how noise is removed")
    max_new_tokens: int = Field(48, ge=1, description="text tokens after which a text stops")
    max_pictures: int = Field(8, ge=1, description="pictures at most in a document that the model continues by itself")


class EvaluateParams(Frozen):
    """Held-out documents scored per task, and how they are generated."""

    documents: dict[EvaluatedKind, NonNegativeInt] = Field(description="held-out documents scored, per kind")
    sampling: SamplingParams = SamplingParams()
    batch_documents: int = Field(64, ge=1, description="documents generated at once, per process")
    frames_per_story: int = Field(2, ge=1, description="pictures of a story that are asked for after its true beginning")
    told_stories: int = Field(20, ge=0, description="stories that the model tells by itself from the first sentence")
    ranks: int = Field(2, ge=1, description="processes that generate, one device (or processor core) each")
    bootstrap: int = Field(1000, ge=100, description="resamples behind an interval")
    confidence: float = Field(0.95, gt=0, lt=1, description="of the intervals")


class GateRule(Frozen):
    """When a challenger of one task replaces the champion."""

    metric: str = Field(description="the primary metric of the task, higher is better")
    minimum: float = Field(description="no model below this is promoted")
    smallest_gain: float = Field(0.0, ge=0, description="gain that matters against the champion")
    alpha: float = Field(0.05, gt=0, lt=1, description="significance of the paired test against the champion")
    also: tuple[str, ...] = Field((), description="further metrics of which a gain suffices; tests are Holm-corrected over all of them")
    guards: dict[str, float] = Field({}, description="metrics that must not get worse, each with the loss that is tolerated")


class GateParams(Frozen):
    """The gate, one rule a task."""

    vqa: GateRule
    grounding: GateRule
    segmentation: GateRule
    story: GateRule


class Params(Frozen):
    """Everything that shapes a run."""

    seed: int = Field(0, ge=0, description="every random choice derives from it")
    deterministic: bool = Field(True, description="bit-identical reruns on one machine and device type")
    tasks: tuple[Task, ...] = Field(TASKS, min_length=1, description="tasks fine-tuned, evaluated, registered and gated")
    data: DataParams
    model: ModelParams
    pretrain: TrainParams
    finetune: FinetuneParams
    evaluate: EvaluateParams
    gate: GateParams

    @model_validator(mode="after")
    def _tasks_differ(self) -> Self:
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError("tasks names one task twice")
        return self

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if found := list(contradictions(self)):
            raise ValueError("; ".join(found))
        return self

    @property
    def training_stages(self) -> tuple[str, ...]:
        """What is trained: `pretrain`, then each task."""
        return ("pretrain", *self.tasks)

    @staticmethod
    def training_key(stage: str) -> str:
        """Where the training values of `pretrain` or of a task stand."""
        return stage if stage == "pretrain" else f"finetune.{stage}"

    def start(self, stage: str) -> Start:
        """What `pretrain` or a task starts from."""
        given = self.training(stage).init_from
        return Start.parse(given) if given is not None else Start("scratch") if stage == "pretrain" else Start("stage", "pretrain")

    def training(self, stage: str) -> TrainParams:
        """Training values of `pretrain` or of a task."""
        return self.pretrain if stage == "pretrain" else getattr(self.finetune, stage)


def parse(values: Any, source: str = PARAMS_FILE) -> Params:
    """Check a parsed mapping. Raises ParamsError naming each wrong key and what is expected."""
    if not isinstance(values, dict):
        raise ParamsError(f"{source}: expected a mapping of sections, got {type(values).__name__}")
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise ParamsError(_explain(error, source)) from None


def parse_corpus(values: Any, options: Sequence[str] = ()) -> CorpusParams:
    """Check one entry of data.corpora, with options as `key=value` (the value is YAML). Raises ParamsError."""
    for option in options:
        values = override(values, f"options.{option}")
    try:
        return CorpusParams.model_validate(values)
    except ValidationError as error:
        raise ParamsError(_explain(error, "corpus")) from None


def load(path: Path = Path(PARAMS_FILE)) -> Params:
    """Read and check params.yaml. Raises ParamsError."""
    return parse(read_mapping(path), str(path))


def read_mapping(path: Path) -> Any:
    """Read a YAML mapping. Raises ParamsError when the file is absent or is no YAML."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_FloatLoader)
    except FileNotFoundError:
        raise ParamsError(f"{path} does not exist; run from the repository root") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} is not valid YAML: {error}") from None


def merge(base: Any, overlay: Any) -> Any:
    """Overlay a mapping on another, key by key; lists and scalars are replaced."""
    if not (isinstance(base, dict) and isinstance(overlay, dict)):
        return overlay
    return base | {key: merge(base[key], value) if key in base else value for key, value in overlay.items()}


def override(values: Any, assignment: str) -> Any:
    """Apply one `key.path=value` (the value is YAML). Raises ParamsError for a malformed assignment."""
    path, separator, text = assignment.partition("=")
    if not separator or not path or not all(path.split(".")):
        raise ParamsError(f"--set {assignment!r}: write it as section.key=value, for example pretrain.steps=100")
    try:
        value = yaml.load(text, Loader=_FloatLoader)
    except yaml.YAMLError as error:
        raise ParamsError(f"--set {assignment!r}: the value is not YAML: {error}") from None
    for key in reversed(path.split(".")):
        value = {key: value}
    return merge(values, value)


def _explain(error: ValidationError, source: str) -> str:
    lines = []
    for problem in error.errors():
        location = tuple(part for part in problem["loc"] if part != "[key]")
        key = ".".join(str(part) for part in location)
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = f"unknown key{_suggestion(location)}"
        elif problem["type"] == "missing":
            message = "this key is required"
        lines.append(": ".join(filter(None, (source, key, message))))
    return "\n".join(lines)


def _suggestion(location: tuple[int | str, ...]) -> str:
    section: Any = Params
    for part in location[:-1]:
        field = getattr(section, "model_fields", {}).get(part)
        section = field.annotation if field else None
    known = list(getattr(section, "model_fields", {}))
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"; did you mean `{close[0]}`?" if close else f"; known keys: {', '.join(known)}" if known else ""


class _FloatLoader(yaml.SafeLoader):
    """YAML 1.2 floats: PyYAML reads `1e-4` as a string, DVC's reader as a number."""


_FloatLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"),
    list("-+0123456789."),
)

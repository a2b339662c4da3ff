"""The architecture as frozen values. Importable without torch, so that data preparation can ask for shapes cheaply."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from model.config_checks import faults

CONFIG_VERSION = 1
CrossAttention = Literal["deformable", "dense", "dense_resampler"]
SamplingPath = Literal["torch", "cpp", "triton", "auto"]


class ConfigError(ValueError):
    """A model configuration cannot be used; the message names the key and the fix."""


class Section:
    """Base of every section: unknown keys are errors when a config.json is read."""

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class TokenIds:
    """Special token ids. `boi` begins an image; `image` is the placeholder of one visual token."""

    pad: int
    bos: int
    eos: int
    boi: int
    image: int


@dataclass(frozen=True)
class ModelShape:
    """What the data needs to know of a model: sizes and ids, no torch."""

    num_visual_tokens: int
    image_px: int
    output_px: int
    latent_shape: tuple[int, int, int]
    max_row_tokens: int
    tokens: TokenIds


@dataclass(frozen=True)
class VisionConfig(Section):
    """ViT of a family with adapter pyramid (mm_interleaved.md 1.2).

    double_stem: float32 pictures go through the adapter's convolutions in float64, without which maps of equal weights differ by 2e-4.
    path: what computes the adapter's deformable sampling, see SamplerConfig.
    """

    image_px: int
    patch_px: int
    width: int
    layers: int
    heads: int
    mlp: int
    activation: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    interactions: int = 4
    stem: int = 64
    double_stem: bool = True
    points: int = 4
    value_ratio: float = 0.5
    ffn_ratio: float = 0.25
    injector_gamma: float = 0.0
    radial_offsets: bool = False
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    family: Literal["clip", "siglip"] = "clip"
    path: SamplingPath = "torch"

    @property
    def class_tokens(self) -> int:
        """Tokens before the patches."""
        return 1 if self.family == "clip" else 0

    @property
    def grid(self) -> int:
        """Patches per side."""
        return self.image_px // self.patch_px

    @property
    def adapter_px(self) -> int:
        """Side of the picture as the adapter sees it: 16 pixels a patch, whatever the ViT's patch."""
        return 16 * self.grid

    @property
    def pyramid(self) -> tuple[int, int, int, int]:
        """Sides of the four maps, finest first."""
        return (4 * self.grid, 2 * self.grid, self.grid, self.grid // 2)


@dataclass(frozen=True)
class ResamplerConfig(Section):
    """Q-Former blocks used as a perceiver. Queries start alike (`random`, as released), or each at its own cell of the picture (`grid`)."""

    queries: int
    width: int
    encoder_width: int
    layers: int
    heads: int
    cross_frequency: int = 1
    intermediate: int = 3072
    qk_norm: bool = False
    dropout: float = 0.0
    queries_start: Literal["random", "grid"] = "random"


@dataclass(frozen=True)
class SamplerConfig(Section):
    """One MMFS module, apart from the widths of its host.

    Points start within `offset_init` base cells of the reference: anywhere (`spread`, as released), or each
    head's in its own tile (`tiles`). `form` paper is Eq. 4 literally: an embedding of the image's number instead of
    its distance, no sink, offsets in units of the picture. `path` is what samples (docs/kernels.md): the last digits depend on it, and with
    `auto` on the machine. `linears` bfloat16 rounds what its linear layers multiply; sums and sampling stay in the model's own type.
    """

    heads: int
    points: int
    inner: int
    levels: tuple[int, ...]
    table_rows: int
    offset_init: float
    train_sink: bool
    offset_start: Literal["spread", "tiles"] = "spread"
    form: Literal["release", "paper"] = "release"
    path: SamplingPath = "torch"
    linears: Literal["own", "bfloat16"] = "own"


@dataclass(frozen=True)
class LanguageConfig(Section):
    """Llama-like decoder with gated MMFS in every `cross_frequency`-th layer. `head_width` is width / heads where absent.

    `start` mimetic: attention starts by looking at what is alike and passing it on, and the text head as the embeddings.
    """

    width: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    mmfs: SamplerConfig
    mmfs_base: int
    cross_frequency: int = 4
    gate_init: float = 0.0
    rms_eps: float = 1e-6
    rope_theta: float = 10000.0
    max_positions: int = 2048
    family: Literal["llama", "mistral", "qwen2", "qwen3"] = "llama"
    head_width: int | None = None
    start: Literal["random", "mimetic"] = "random"


@dataclass(frozen=True)
class AutoencoderConfig(Section):
    """`pixel`: lossless space-to-depth; `vae`: diffusers AutoencoderKL built from `values`."""

    kind: Literal["pixel", "vae"]
    factor: int
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageDecoderConfig(Section):
    """Diffusion decoder: diffusers UNet, autoencoder and schedule, and MMFS.

    `wiring`: MMFS on the skip tensors and the mid block (`skips`, as released) or after each up block (`upsampling`, as in the paper).
    `mmfs_base`: see `base_side`. `quiet_start` lets the UNet's attention and upsampling begin at next to nothing, for one that learns from
    nothing in few steps.
    """

    output_px: int
    autoencoder: AutoencoderConfig
    unet: dict[str, Any]
    scheduler: dict[str, Any]
    resampler: ResamplerConfig
    mmfs: SamplerConfig
    position_grid: int
    conv_init: float = 0.0
    quiet_start: bool = False
    wiring: Literal["skips", "upsampling"] = "skips"
    mmfs_base: int | None = None

    @property
    def base_side(self) -> int:
        """Side of the grid whose cells are the unit of MMFS offsets on the largest tensors; on smaller ones it is halved with them."""
        return self.latent_shape[1] if self.mmfs_base is None else self.mmfs_base

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the latents."""
        side = self.output_px // self.autoencoder.factor
        return (int(self.unet["in_channels"]), side, side)


@dataclass(frozen=True)
class ModelConfig(Section):
    """The whole model. `vocab_size` counts the tokenizer's entries; BoI and placeholder are appended to them.

    cross_attention (Table 6 of the paper): how a query looks at images, `deformable` (MMFS), `dense` over all cells of their maps,
    `dense_resampler` over their visual tokens, or not at all. visible_images: which ones the language model looks at; decoder_images:
    which ones the image decoder does. visual_tokens (Table 8): `learned` vectors, the same for every image, instead of the resampler's.
    """

    vocab_size: int
    vision: VisionConfig
    visual_resampler: ResamplerConfig
    language: LanguageConfig
    image_decoder: ImageDecoderConfig
    pad_id: int = 0
    bos_id: int = 1
    eos_id: int = 2
    cross_attention: CrossAttention | Literal["off"] = "deformable"
    visible_images: Literal["nearest", "all"] = "all"
    decoder_images: Literal["previous", "all"] = "previous"
    visual_tokens: Literal["resampler", "learned"] = "resampler"
    attention: Literal["document", "release"] = "document"
    image_loss_mean: Literal["trained", "release"] = "trained"
    text_loss_mean: Literal["guarded", "release"] = "guarded"
    min_context_tokens: int = 3
    text_loss_weight: float = 1.0
    image_loss_weight: float = 10.0
    condition_drop: float = 0.1
    frozen_head_bias: float = 0.0
    new_head_bias: float = 0.0
    init_std: float | None = 0.02
    embedding_std: float = 0.02
    visual_init_std: float = 0.02

    def __post_init__(self) -> None:
        """Raises ConfigError naming an impossible combination."""
        for fault in faults(self):
            raise ConfigError(fault)

    @property
    def tokens(self) -> TokenIds:
        """Special token ids."""
        return TokenIds(pad=self.pad_id, bos=self.bos_id, eos=self.eos_id, boi=self.vocab_size, image=self.vocab_size + 1)

    @property
    def value_width(self) -> int:
        """Width of what cross-attention reads: maps of the encoder, or visual tokens."""
        return self.language.width if self.cross_attention == "dense_resampler" else self.vision.width

    def value_cells(self, sampler: SamplerConfig) -> int:
        """Rows of what cross-attention reads of one image."""
        dense = self.cross_attention == "dense_resampler"
        return self.visual_resampler.queries if dense else sum(side * side for side in sampler.levels)

    @property
    def most_images(self) -> int | None:
        """Images that one document may hold, as the tables of distances allow; None where no place sees more than one."""
        limits = []
        if self.cross_attention != "off":
            limits += [self.language.mmfs.table_rows - 1] if self.visible_images == "all" else []
            # The image that is drawn last does not look at itself.
            limits += [self.image_decoder.mmfs.table_rows] if self.decoder_images == "all" else []
        return min(limits, default=None)

    @property
    def shape(self) -> ModelShape:
        """What the data needs to know."""
        decoder = self.image_decoder
        return ModelShape(
            num_visual_tokens=self.visual_resampler.queries,
            image_px=self.vision.image_px,
            output_px=decoder.output_px,
            latent_shape=decoder.latent_shape,
            max_row_tokens=self.language.max_positions,
            tokens=self.tokens,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values with a version, for JSON."""
        return {"version": CONFIG_VERSION, **asdict(self)}


def config_from_dict(values: dict[str, Any], source: str = "config") -> ModelConfig:
    """Inverse of `to_dict`. Raises ConfigError naming each wrong key."""
    version = values.get("version")
    if not isinstance(version, int) or version > CONFIG_VERSION:
        raise ConfigError(
            f"{source}: version {version!r} is not understood (this program reads up to {CONFIG_VERSION}); install a newer mmfs"
        )
    try:
        return _ADAPTER.validate_python({key: value for key, value in values.items() if key != "version"})
    except ValidationError as error:
        lines = [f"{source}: {'.'.join(str(part) for part in problem['loc']) or '(root)'}: {problem['msg']}" for problem in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def save_config(config: ModelConfig, path: Path) -> None:
    """Write config.json; equal configurations give equal bytes."""
    path.write_text(json.dumps(config.to_dict(), indent=1, sort_keys=True) + "\n", encoding="utf-8")


def load_config(path: Path) -> ModelConfig:
    """Read config.json. Raises ConfigError, or OSError when it cannot be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping")
    return config_from_dict(values, str(path))


_ADAPTER = TypeAdapter(ModelConfig)

"""What makes a configuration impossible. Importable without torch, as the configuration is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from model.config import ModelConfig

_MAY_BE_ZERO = frozenset({"pad_id", "bos_id", "eos_id", "min_context_tokens"})


def faults(config: ModelConfig) -> Iterator[str]:
    """What is wrong with a configuration, each naming the field and the fix; the later ones count on those before them."""
    yield from _values(config, "")
    yield from _widths(config)
    yield from _pictures(config)


def _values(section: Any, prefix: str) -> Iterator[str]:
    """Fields of a section and those in it whose own value is out of range."""
    for name, choices in _choices(type(section)).items():
        if getattr(section, name) not in choices:
            yield f"{prefix}{name} is {getattr(section, name)!r}; choose one of {', '.join(map(str, choices))}"
    for field in fields(section):
        value, name = getattr(section, field.name), prefix + field.name
        if is_dataclass(value):
            yield from _values(value, f"{name}.")
        elif isinstance(value, int) and not isinstance(value, bool) and value < (least := int(field.name not in _MAY_BE_ZERO)):
            yield f"{name} is {value}; it must be at least {least}"
        elif isinstance(value, float) and not math.isfinite(value):
            yield f"{name} is {value}; it must be finite"


def _choices(section: type) -> dict[str, tuple[Any, ...]]:
    """The fields of a section that are one of a few words."""
    found = {}
    for name, hint in get_type_hints(section).items():
        parts = [hint] if get_origin(hint) is Literal else list(get_args(hint))
        if parts and all(get_origin(part) is Literal for part in parts):
            found[name] = tuple(choice for part in parts for choice in get_args(part))
    return found


def _widths(config: ModelConfig) -> Iterator[str]:
    """Widths that do not divide or do not fit each other."""
    vision, language, decoder = config.vision, config.language, config.image_decoder
    yield from _divided("vision.width", vision.width, "vision.heads", vision.heads)
    yield from _divided("vision.width * value_ratio", int(vision.width * vision.value_ratio), "vision.heads", vision.heads)
    yield from _divided("vision.width", vision.width, "sines and cosines of rows and columns", 4)
    for name, resampler in (("visual_resampler", config.visual_resampler), ("image_decoder.resampler", decoder.resampler)):
        yield from _divided(f"{name}.width", resampler.width, f"{name}.heads", resampler.heads)
    for name, sampler in (("language.mmfs", language.mmfs), ("image_decoder.mmfs", decoder.mmfs)):
        yield from _divided(f"{name}.inner", sampler.inner, f"{name}.heads", sampler.heads)
        if sampler.linears != "own" and config.cross_attention != "deformable":
            yield f"{name}.linears is {sampler.linears}, which MMFS alone has; set it to own, or cross_attention to deformable"
    yield from _divided("language.heads", language.heads, "language.kv_heads", language.kv_heads)
    yield from _divided("language.width", language.width, "sines and cosines of places", 2)
    if language.head_width is None:
        yield from _divided("language.width", language.width, "heads, unless head_width is given", language.heads)
    yield from _divided(
        "width of a head of language", language.head_width or language.width // language.heads, "pairs that turn together", 2
    )
    if config.visual_resampler.encoder_width != vision.width:
        yield "visual_resampler.encoder_width must be vision.width"
    if decoder.resampler.encoder_width != language.width:
        yield "image_decoder.resampler.encoder_width must be language.width"
    if (condition := decoder.unet.get("cross_attention_dim")) != decoder.resampler.width:
        yield f"image_decoder.resampler.width ({decoder.resampler.width}) must be cross_attention_dim of image_decoder.unet ({condition})"


def _pictures(config: ModelConfig) -> Iterator[str]:
    """Sizes of pictures and of the maps made of them."""
    vision, decoder = config.vision, config.image_decoder
    for name, sampler in (("language.mmfs", config.language.mmfs), ("image_decoder.mmfs", decoder.mmfs)):
        missing = [side for side in sampler.levels if side not in vision.pyramid]
        if missing or not sampler.levels:
            yield f"{name}.levels: {missing or 'none'} not among the pyramid's sides {vision.pyramid}"
    if vision.image_px % vision.patch_px or vision.grid % 2:
        yield f"vision.image_px ({vision.image_px}) must be an even multiple of patch_px ({vision.patch_px})"
    yield from _divided("vision.layers", vision.layers, "vision.interactions", vision.interactions)
    if config.language.start == "mimetic" and config.language.kv_heads != config.language.heads:
        yield "language: start mimetic needs as many kv_heads as heads, since queries start as keys"
    if config.visual_resampler.queries_start == "grid" and config.visual_resampler.queries != vision.grid**2:
        yield f"visual_resampler: queries_start grid needs a query per patch ({vision.grid**2})"
    smallest = decoder.autoencoder.factor * 2 ** (len(decoder.unet["block_out_channels"]) - 1)
    if decoder.output_px % smallest:
        yield (
            f"image_decoder.output_px ({decoder.output_px}) must be a multiple of {smallest}: "
            f"autoencoder and UNet halve a picture's side so often; {max(1, decoder.output_px // smallest) * smallest} is such a size"
        )


def _divided(name: str, value: int, what: str, by: int) -> Iterator[str]:
    if value < by or value % by:
        yield f"{name} ({value}) must be a multiple of {by} ({what})"

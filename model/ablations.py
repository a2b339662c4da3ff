"""The axes of the paper's ablations that reach into several sections of a configuration (Tables 5, 9 and 10). Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from model.config import ConfigError, ImageDecoderConfig, LanguageConfig, ModelConfig, SamplerConfig, SamplingPath, VisionConfig


def at_input(config: ModelConfig, image_px: int) -> ModelConfig:
    """For pictures of another size: pyramid, the levels that MMFS samples and the queries of a grid follow. Raises ConfigError."""
    before, vision = config.vision, replace(config.vision, image_px=image_px)
    resampler = config.visual_resampler
    if resampler.queries_start == "grid":
        resampler = replace(resampler, queries=vision.grid**2)
    language, decoder = _with_samplers(config, lambda sampler: replace(sampler, levels=_same_levels(sampler, before, vision)))
    language = replace(language, mmfs_base=vision.pyramid[before.pyramid.index(config.language.mmfs_base)])
    return replace(config, vision=vision, visual_resampler=resampler, language=language, image_decoder=decoder)


def trained_at_input(config: ModelConfig, image_px: int) -> ModelConfig:
    """The configuration of a trained model that goes on with pictures of another side, its visual tokens as many as before.

    Raises ConfigError where its tables cannot be resized.
    """
    if image_px == config.vision.image_px:
        return config
    if config.vision.family != "clip" or config.visual_resampler.queries_start == "grid":
        why = "its encoder is no CLIP" if config.vision.family != "clip" else "its visual tokens are cells of the picture"
        raise ConfigError(f"image_px: a model trained at {config.vision.image_px} pixels cannot go on at {image_px}: {why}")
    return at_input(config, image_px)


def with_one_level(config: ModelConfig) -> ModelConfig:
    """MMFS samples one map only, that of the encoder's own grid (Table 9, no multi-scale)."""
    language, decoder = _with_samplers(config, lambda sampler: replace(sampler, levels=(config.vision.grid,)))
    return replace(config, language=language, image_decoder=decoder)


def with_form(config: ModelConfig, form: Literal["release", "paper"]) -> ModelConfig:
    """MMFS as released or as in Eq. 4. Offsets begin at the same places: the released ones count cells of a base grid."""
    decoder = config.image_decoder

    def formed(sampler: SamplerConfig, base: int) -> SamplerConfig:
        scale = {("release", "paper"): 1 / base, ("paper", "release"): base}.get((sampler.form, form), 1)
        return replace(sampler, form=form, offset_init=sampler.offset_init * scale)

    return replace(
        config,
        language=replace(config.language, mmfs=formed(config.language.mmfs, config.language.mmfs_base)),
        # Each block has a base of its own; the finest stands for all.
        image_decoder=replace(decoder, mmfs=formed(decoder.mmfs, decoder.base_side)),
    )


def with_arithmetic(config: ModelConfig, path: SamplingPath, linears: Literal["own", "bfloat16"]) -> ModelConfig:
    """All deformable sampling by this path, that of the encoder's adapter too, and MMFS with these linear layers."""
    language, decoder = _with_samplers(config, lambda sampler: replace(sampler, path=path, linears=linears))
    return replace(config, vision=replace(config.vision, path=path), language=language, image_decoder=decoder)


def _with_samplers(config: ModelConfig, change: Callable[[SamplerConfig], SamplerConfig]) -> tuple[LanguageConfig, ImageDecoderConfig]:
    """Language model and image decoder with their MMFS changed alike."""
    language, decoder = config.language, config.image_decoder
    return replace(language, mmfs=change(language.mmfs)), replace(decoder, mmfs=change(decoder.mmfs))


def _same_levels(sampler: SamplerConfig, before: VisionConfig, after: VisionConfig) -> tuple[int, ...]:
    return tuple(after.pyramid[before.pyramid.index(side)] for side in sampler.levels)

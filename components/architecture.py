"""The model that a run's parameters choose. Imports no torch."""

from __future__ import annotations

from dataclasses import replace

from components.data.tokenizer import Tokenizer
from components.params import ModelParams, Params
from model.ablations import at_input, trained_at_input, with_arithmetic, with_form, with_one_level
from model.config import ConfigError, ModelConfig
from model.presets import preset


def architecture(chosen: ModelParams, vocab_size: int) -> ModelConfig:
    """The preset with the axes that `chosen` changes, for the tokenizer of a corpus. Raises ConfigError for an impossible combination."""
    config = preset(
        chosen.preset,
        vocab_size=vocab_size,
        pad_id=Tokenizer.pad,
        bos_id=Tokenizer.bos,
        eos_id=Tokenizer.eos,
        cross_attention=chosen.cross_attention,
        visible_images=chosen.visible_images,
        decoder_images=chosen.decoder_images,
        visual_tokens=chosen.visual_tokens,
        attention=chosen.attention,
        text_loss_weight=chosen.text_loss_weight,
        image_loss_weight=chosen.image_loss_weight,
        condition_drop=chosen.condition_drop,
    )
    if chosen.visual_token_count is not None:
        resampler = replace(config.visual_resampler, queries=chosen.visual_token_count, queries_start="random")
        config = replace(config, visual_resampler=resampler)
    if chosen.image_px is not None:
        config = at_input(config, chosen.image_px)
    if not chosen.multi_scale:
        config = with_one_level(config)
    decoder = replace(config.image_decoder, wiring=chosen.mmfs_wiring)
    config = with_form(replace(config, image_decoder=decoder), chosen.mmfs_form)
    return with_arithmetic(config, chosen.sampling_path, chosen.mmfs_linears)


def stage_architecture(params: Params, stage: str, config: ModelConfig) -> ModelConfig:
    """The model of a training stage, of the run's model: with pictures of the stage's side, a task's on what pretraining gave.

    Raises ConfigError for a side that it cannot have.
    """
    first, own = params.pretrain.image_px, params.training(stage).image_px
    if first is not None:
        config = at_input(config, first)
    return config if stage == "pretrain" or own is None else trained_at_input(config, own)


def check_trainable(params: Params, config: ModelConfig) -> None:
    """Raises ConfigError where a stage would learn pictures in the latents of an autoencoder that nobody has trained."""
    if config.image_decoder.autoencoder.kind == "pixel":
        return
    for stage in params.training_stages:
        key = params.training_key(stage)
        start = params.start("pretrain") if params.start(stage).kind == "stage" else params.start(stage)
        own = params.training(stage).image_loss_weight
        if start.is_external or not params.training(stage).steps:
            continue
        if own or (own is None and params.model.image_loss_weight):
            raise ConfigError(
                f"{key}: preset {params.model.preset} draws through a Stable Diffusion autoencoder, which training never changes and which "
                f"begins here as noise; set {key}.init_from to weights or components that have one, {key}.image_loss_weight to 0 for text "
                "alone, or model.preset to smoke, tiny or small"
            )

"""The axes of the parameters reach the model's configuration."""

from __future__ import annotations

from typing import Any

import pytest

from components.architecture import architecture
from components.params import ModelParams
from model.config import ConfigError, ModelConfig
from model.presets import preset


def chosen(**values: Any) -> ModelConfig:
    return architecture(ModelParams(preset="tiny", **values), vocab_size=300)


def test_nothing_chosen_is_the_preset() -> None:
    assert chosen() == preset("tiny", vocab_size=300)


@pytest.mark.parametrize(
    ("values", "reads"),
    [
        ({"cross_attention": "dense"}, lambda config: config.cross_attention == "dense"),
        ({"decoder_images": "all"}, lambda config: config.decoder_images == "all"),
        ({"visual_tokens": "learned"}, lambda config: config.visual_tokens == "learned"),
        ({"visual_token_count": 7}, lambda config: config.shape.num_visual_tokens == 7),
        ({"multi_scale": False}, lambda config: config.language.mmfs.levels == config.image_decoder.mmfs.levels == (2,)),
        ({"mmfs_form": "paper"}, lambda config: config.language.mmfs.form == config.image_decoder.mmfs.form == "paper"),
        ({"mmfs_wiring": "upsampling"}, lambda config: config.image_decoder.wiring == "upsampling"),
        ({"image_px": 64}, lambda config: (config.shape.image_px, config.shape.num_visual_tokens) == (64, 16)),
        ({"image_px": 64, "visual_token_count": 5}, lambda config: config.shape.num_visual_tokens == 5),
    ],
)
def test_an_axis_is_one_value(values: dict[str, Any], reads: Any) -> None:
    assert reads(chosen(**values))


def test_an_impossible_size_names_the_key() -> None:
    with pytest.raises(ConfigError, match="image_px"):
        chosen(image_px=40)

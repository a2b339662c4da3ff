"""Presets, their JSON form, and what is refused."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from model.config import ConfigError, config_from_dict
from model.presets import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_json(name: str) -> None:
    config = preset(name, vocab_size=300)
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_added_tokens_follow_the_vocabulary() -> None:
    shape = preset("tiny", vocab_size=512).shape
    assert (shape.tokens.boi, shape.tokens.image) == (512, 513)
    assert shape.latent_shape == (48, 8, 8)


def test_fields_differ_on_request() -> None:
    assert preset("tiny", vocab_size=300, attention="release").attention == "release"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: preset("huge", vocab_size=300), "huge"),
        (lambda: preset("tiny", vocab_size=300, atention="release"), "atention"),
    ],
)
def test_unknown_names_are_refused(call: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()  # type: ignore[operator]


def test_impossible_sizes_name_the_key() -> None:
    config = preset("tiny", vocab_size=300)
    with pytest.raises(ConfigError, match=r"language\.mmfs\.levels"):
        replace(config, language=replace(config.language, mmfs=replace(config.language.mmfs, levels=(7,))))
    with pytest.raises(ConfigError, match="patch_px"):
        replace(config, vision=replace(config.vision, patch_px=12))


@pytest.mark.parametrize(
    ("section", "values", "told"),
    [
        ("", {"vocab_size": 0}, "vocab_size is 0; it must be at least 1"),
        ("", {"cross_attention": "dens"}, "cross_attention is 'dens'; choose one of deformable, dense, dense_resampler, off"),
        ("", {"image_loss_weight": math.nan}, "image_loss_weight is nan"),
        ("vision", {"family": "dino"}, r"vision\.family is 'dino'; choose one of clip, siglip"),
        ("vision", {"heads": 3}, r"vision\.width \(32\) must be a multiple of 3 \(vision\.heads\)"),
        ("vision", {"value_ratio": 0.48}, r"vision\.width \* value_ratio \(15\) must be a multiple of 2 \(vision\.heads\)"),
        ("visual_resampler", {"heads": 3}, r"visual_resampler\.width \(\d+\) must be a multiple of 3 \(visual_resampler\.heads\)"),
        ("language", {"heads": 3}, r"language\.heads \(3\) must be a multiple of 4 \(language\.kv_heads\)"),
        ("language", {"heads": 3, "kv_heads": 3}, r"language\.width \(\d+\) must be a multiple of 3 \(heads, unless head_width is given"),
        ("language", {"kv_heads": 3}, r"language\.heads \(\d\) must be a multiple of 3 \(language\.kv_heads\)"),
        ("language", {"head_width": 15}, r"width of a head of language \(15\) must be a multiple of 2"),
        ("image_decoder", {"output_px": 36}, r"image_decoder\.output_px \(36\) must be a multiple of 8: .* 32 is such a size"),
    ],
)
def test_values_that_cannot_be_name_the_key_and_the_fix(section: str, values: dict[str, Any], told: str) -> None:
    config = preset("smoke", vocab_size=300)
    with pytest.raises(ConfigError, match=told):
        replace(config, **({section: replace(getattr(config, section), **values)} if section else values))


def test_published_pictures_of_a_size_that_the_decoder_does_not_halve() -> None:
    config = preset("official_tiny", vocab_size=100)
    with pytest.raises(ConfigError, match=r"output_px \(224\) must be a multiple of 64: .* 192 is such a size"):
        replace(config, image_decoder=replace(config.image_decoder, output_px=224))


def test_a_config_file_with_a_wrong_key_names_it() -> None:
    values = preset("smoke", vocab_size=300).to_dict()
    values["vision"]["colour"] = 1
    with pytest.raises(ConfigError, match=r"vision\.colour"):
        config_from_dict(values)


def test_a_newer_config_file_is_refused() -> None:
    with pytest.raises(ConfigError, match="version 99"):
        config_from_dict(preset("smoke", vocab_size=300).to_dict() | {"version": 99})


def test_sizes_are_known_without_torch() -> None:
    program = "import sys; from model.presets import preset; preset('tiny', vocab_size=300).shape; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

"""Presets, their JSON form, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

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

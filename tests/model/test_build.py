"""Weights to files and back, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from packed_rows import MakeBatch, with_random_start
from safetensors.torch import load_file

from kernels import build
from kernels.deformable_attention.cpu import library
from model.ablations import with_arithmetic
from model.build import CONFIG_FILE, build_model, check_sampling, load_model, save_model
from model.config import ConfigError, ModelConfig
from model.input_size import FIXED_POSITIONS, POSITIONS, resized_positions
from model.mm_interleaved import MMInterleaved
from model.presets import preset
from model.weights import INDEX_FILE, WEIGHTS_FILE, WeightsError, load_weights, write_weights


def test_a_saved_model_is_the_same_model(network: MMInterleaved, make_batch: MakeBatch, tmp_path: Path) -> None:
    save_model(network, tmp_path / "weights")
    loaded = load_model(tmp_path / "weights")
    assert loaded.config == network.config
    assert not loaded.training
    batch = make_batch([[[5, "image", 6]]])
    with torch.no_grad():
        assert torch.equal(loaded(batch).loss, network(batch).loss)


def test_saving_twice_writes_the_same_bytes(network: MMInterleaved, tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_model(network, tmp_path / name)
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_weights_of_another_shape_are_named(network: MMInterleaved, config: ModelConfig) -> None:
    tensors = network.state_dict()
    tensors["soi_token"] = torch.zeros(1, 3)
    with pytest.raises(WeightsError, match=r"soi_token is \(1, 3\)"):
        load_weights(build_model(config, seed=0), [tensors])


def test_missing_and_unknown_weights_are_named(network: MMInterleaved, config: ModelConfig) -> None:
    tensors = network.state_dict()
    tensors["moon"] = tensors.pop("soi_token")
    with pytest.raises(WeightsError, match="missing soi_token; unknown moon"):
        load_weights(build_model(config, seed=0), [tensors])


def test_the_fixed_table_of_public_checkpoints_may_be_there(network: MMInterleaved, config: ModelConfig) -> None:
    tensors = network.state_dict() | {"visual_tokenizer.encoder.vision_model.embeddings.position_ids": torch.arange(5)[None]}
    load_weights(build_model(config, seed=1), [tensors])


def test_a_damaged_file_says_so(network: MMInterleaved, tmp_path: Path) -> None:
    save_model(network, tmp_path)
    (tmp_path / WEIGHTS_FILE).write_bytes(b"not safetensors")
    with pytest.raises(WeightsError, match="no valid safetensors"):
        load_model(tmp_path)
    (tmp_path / CONFIG_FILE).write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        load_model(tmp_path)


def test_every_official_tensor_has_its_place(golden_dir: Path) -> None:
    model = build_model(preset("official_tiny", vocab_size=100), seed=0)
    official = load_file(golden_dir / "model_state.safetensors")
    load_weights(model, [official])
    ours = model.state_dict()
    assert official.keys() - ours.keys() == {"visual_tokenizer.encoder.vision_model.embeddings.position_ids"}
    assert not ours.keys() - official.keys()


def test_a_quiet_start_silences_attention_and_coarse_levels_only(config: ModelConfig) -> None:
    loud = replace(config, image_decoder=replace(config.image_decoder, quiet_start=False))
    quiet = build_model(config, seed=0).state_dict()
    differ = {name for name, tensor in build_model(loud, seed=0).state_dict().items() if not torch.equal(tensor, quiet[name])}
    assert differ
    assert all(".proj_out." in name or ".upsamplers." in name for name in differ)
    assert not any(quiet[name].any() for name in differ if ".proj_out." in name)


def test_a_mimetic_start_looks_at_what_is_alike_and_says_it(config: ModelConfig) -> None:
    mimetic = build_model(config, seed=0)
    random = build_model(with_random_start(config), seed=0).state_dict()
    differ = {name for name, tensor in mimetic.state_dict().items() if not torch.equal(tensor, random[name])}
    assert {name.rpartition("self_attn.")[2] for name in differ} == {"q_proj.weight", "o_proj.weight", "text_decoder.head.weight"}
    attention = mimetic.mm_decoder.layers[0].self_attn
    for like, other in ((attention.q_proj.weight, attention.k_proj.weight), (attention.o_proj.weight, attention.v_proj.weight.T)):
        assert torch.cosine_similarity(like.flatten(), other.flatten(), dim=0) > 0.9
    embeddings, head = mimetic.mm_decoder.embed_tokens.weight, mimetic.text_decoder.head.weight
    assert torch.cosine_similarity(embeddings[: config.vocab_size], head[: config.vocab_size]).min() > 0.999
    assert not head[config.vocab_size :].any()


def test_a_mimetic_start_needs_a_key_for_each_query(config: ModelConfig) -> None:
    with pytest.raises(ConfigError, match="as many kv_heads as heads"):
        build_model(replace(config, language=replace(config.language, kv_heads=2)), seed=0)


def test_shards_under_an_index_are_the_same_model(network: MMInterleaved, tmp_path: Path) -> None:
    save_model(network, tmp_path)
    (tmp_path / WEIGHTS_FILE).unlink()
    tensors = list(network.state_dict().items())
    write_weights([dict(tensors[:100]), dict(tensors[100:])], 2, tmp_path)
    loaded = load_model(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors)
    next(tmp_path.glob("model-00002*")).unlink()
    with pytest.raises(WeightsError, match=r"names 'model-00002-of-00002\.safetensors', which is not in"):
        load_model(tmp_path)
    (tmp_path / INDEX_FILE).write_text("[]")
    with pytest.raises(WeightsError, match="no index of weights"):
        load_model(tmp_path)


def test_a_run_by_the_cpp_operator_ends_where_it_is_missing(config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pure PyTorch gives other last digits; only who asks for no guarantee gets it instead."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", str(tmp_path / "no compiler"))
    monkeypatch.setattr(build, "PREBUILT", tmp_path / "no wheel")
    library.load.cache_clear()
    try:
        check_sampling(config)
        for path in ("torch", "auto"):
            check_sampling(with_arithmetic(config, path, "own"))
        with pytest.raises(ConfigError, match=r"set model\.sampling_path to torch"):
            check_sampling(with_arithmetic(config, "cpp", "own"))
    finally:
        library.load.cache_clear()


def test_a_trained_model_goes_on_with_larger_pictures(tmp_path: Path) -> None:
    """Only the tables that count patches change; a grid of visual tokens cannot."""
    trained = build_model(preset("official_tiny", vocab_size=100), seed=0)
    save_model(trained, tmp_path / "model")
    larger = load_model(tmp_path / "model", image_px=448)
    assert (larger.config.vision.image_px, larger.config.shape.num_visual_tokens) == (448, trained.config.shape.num_visual_tokens)
    before, after = trained.state_dict(), larger.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {FIXED_POSITIONS, POSITIONS}
    assert torch.equal(after[POSITIONS], resized_positions(before[POSITIONS], 32))
    save_model(build_model(preset("tiny", vocab_size=300), seed=0), tmp_path / "tiny")
    with pytest.raises(ConfigError, match="its visual tokens are cells of the picture"):
        load_model(tmp_path / "tiny", image_px=64)

"""Published sizes: the names and shapes of the released tensors, without their memory."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from model.build import build_on_meta
from model.mm_interleaved import MMInterleaved
from model.mmfs import MMFS
from model.presets import preset, published
from model.weights import OPTIONAL_KEYS

MILLION = 1_000_000


@pytest.fixture(scope="module")
def release() -> MMInterleaved:
    return build_on_meta(preset("release_13b", vocab_size=32000))


def test_the_release_has_the_tensors_of_the_released_weights(release: MMInterleaved, data_dir: Path) -> None:
    table = gzip.decompress((data_dir / "release_keys.tsv.gz").read_bytes()).decode()
    released = {name: tuple(map(int, shape.split("x"))) for name, shape in (line.split("\t") for line in table.splitlines())}
    ours = {name: tuple(tensor.shape) for name, tensor in release.state_dict().items()}
    assert released.keys() - ours.keys() == OPTIONAL_KEYS
    assert ours == {name: shape for name, shape in released.items() if name not in OPTIONAL_KEYS}


def test_the_release_has_the_published_counts(release: MMInterleaved) -> None:
    """mm_interleaved.md 1.7, in millions as printed there."""
    counts = {
        "visual_tokenizer.encoder": 326.4,
        "visual_tokenizer.perceiver_resampler": 101.65,
        "mm_decoder.layers": 13_051,
        "mm_decoder.embed_tokens": 163.9,
        "image_decoder.perceiver_resampler": 23.2,
        "image_decoder.decoder.vae": 83.65,
        "image_decoder.decoder.unet": 865.9,
        "context_feat_proj": 26.2,
    }
    ours = {name: sum(parameter.numel() for parameter in release.get_submodule(name).parameters()) / MILLION for name in counts}
    assert ours == pytest.approx(counts, rel=2.5e-3)  # printed with three to five digits


def test_the_ablation_reads_its_sizes_from_the_same_place() -> None:
    config = preset("ablation_3b", vocab_size=32000)
    assert config.shape.num_visual_tokens == 32
    assert config.shape.latent_shape == (4, 32, 32)
    model = build_on_meta(config)
    assert sum(parameter.numel() for parameter in model.mm_decoder.embed_tokens.parameters()) == 32002 * 3200


@pytest.mark.parametrize(
    ("name", "parameters"), [("official_tiny", 18_023_713), ("ablation_3b", 4_989_214_902), ("paper_13b", 14_826_727_865)]
)
def test_counts_are_those_of_the_manual(name: str, parameters: int) -> None:
    """docs/model.md prints them in billions; a change here is a change of the architecture."""
    model = build_on_meta(preset(name, vocab_size=32000))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_the_paper_has_the_release_without_what_it_does_not_describe(release: MMInterleaved) -> None:
    """Eq. 4 has no sink; MMFS stands after the up blocks. All else bears the released names and shapes."""
    paper = {name: tuple(tensor.shape) for name, tensor in build_on_meta(preset("paper_13b", vocab_size=32000)).state_dict().items()}
    released = {name: tuple(tensor.shape) for name, tensor in release.state_dict().items()}
    differ = {name for name in paper.keys() | released.keys() if paper.get(name) != released.get(name)}
    assert all("mmfs_module." in name or "ignore_token" in name or "attention_weights" in name for name in differ)
    assert paper["mm_decoder.layers.0.llama_cross_attn.attn.attention_weights.weight"] == (16 * 3 * 8, 5120)
    assert len([name for name in paper if "mmfs_up_blocks" in name and name.endswith("conv.weight")]) == 4


@pytest.mark.parametrize(
    ("output_px", "bases"),
    [(512, [64, 32, 16, 8]), (256, [32, 16, 8, 4]), (192, [32, 16, 8, 4]), (128, [16, 8, 4, 2]), (768, [96, 48, 24, 12])],
)
def test_bases_follow_the_release_at_other_output_sizes(output_px: int, bases: list[int]) -> None:
    """mm_interleaved.md 1.6; the release itself stops at 512 pixels."""
    tiny = preset("official_tiny", vocab_size=100)
    language = {name: getattr(tiny.language, name) for name in ("width", "layers", "heads", "kv_heads", "mlp")}
    config = published(
        100,
        vision=tiny.vision,
        visual_resampler=tiny.visual_resampler,
        language=language,
        unet=tiny.image_decoder.unet,
        vae=tiny.image_decoder.autoencoder.values,
        output_px=output_px,
        condition_heads=4,
    )
    net = build_on_meta(config).get_submodule("image_decoder.decoder.mmfs_module")
    found = [module.base_size for module in net.modules() if isinstance(module, MMFS)]
    assert found == [bases[0]] * 3 + [bases[1]] * 3 + [bases[2]] * 3 + [bases[3]] * 4

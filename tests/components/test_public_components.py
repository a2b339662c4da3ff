"""Public folders, written by the libraries themselves, become a model that computes what they compute."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizerFast,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    Qwen3Config,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from components.component_files import RECORD_FILE, safetensors_files
from components.public_components import PublicFolders, assemble
from components.tracking.weights import file_sha256
from kernels.testing import assert_close
from model.build import load_model
from model.config import ConfigError
from model.weights import WeightsError


def silent(told: str, done: int, total: int) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> PublicFolders:
    """A tiny CLIP, Qwen3 and Stable Diffusion as their libraries save them."""
    root = tmp_path_factory.mktemp("public")
    torch.manual_seed(0)
    CLIPVisionModel(
        CLIPVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2, image_size=56, patch_size=14)
    ).save_pretrained(root / "clip")
    AutoModelForCausalLM.from_config(
        Qwen3Config(
            vocab_size=60,
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=2,
        )
    ).save_pretrained(root / "language")
    sd = root / "sd"
    UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 32, 32, 32),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    ).save_pretrained(sd / "unet")
    AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        sample_size=64,
    ).save_pretrained(sd / "vae")
    DDPMScheduler(prediction_type="v_prediction").save_pretrained(sd / "scheduler")
    CLIPTextModel(
        CLIPTextConfig(vocab_size=3, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(sd / "text_encoder")
    words = root / "words"
    words.mkdir()
    (words / "vocab.json").write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}))
    (words / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizerFast(str(words / "vocab.json"), str(words / "merges.txt")).save_pretrained(sd / "tokenizer")
    return PublicFolders(root / "clip", root / "language", sd)


def put_together(folders: PublicFolders, target: Path) -> None:
    assemble(folders, target, visual_tokens=4, condition_heads=4, seed=0, progress=silent)


def test_the_parts_compute_what_their_libraries_compute(folders: PublicFolders, tmp_path: Path) -> None:
    put_together(folders, tmp_path / "start")
    model = load_model(tmp_path / "start")
    config = model.config
    assert (config.language.family, config.bos_id, config.eos_id, config.pad_id) == ("qwen3", 2, 2, 59)
    assert config.shape.output_px == 64
    assert config.image_decoder.scheduler["prediction_type"] == "v_prediction"
    with torch.no_grad():
        text = AutoModelForCausalLM.from_pretrained(folders.language).eval()
        ids = torch.randint(60, (1, 7))
        assert_close(model.mm_decoder.embed_tokens(ids), text.model.embed_tokens(ids), "model")
        states = torch.randn(1, 48)
        assert_close(model.text_decoder.head(states)[:, :60], text.lm_head(states), "model")
        picture = torch.randn(1, 3, 56, 56)
        clip = CLIPVisionModel.from_pretrained(folders.vision).eval()
        body = model.visual_tokenizer.encoder.vision_model
        assert_close(body.embeddings(picture), clip.embeddings(picture), "model")
        unet = UNet2DConditionModel.from_pretrained(folders.diffusion / "unet").eval()
        latents, words = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 32)
        assert_close(
            model.image_decoder.decoder(latents, torch.tensor([5]), words, None), unet(latents, torch.tensor([5]), words).sample, "model"
        )
        vae = AutoencoderKL.from_pretrained(folders.diffusion / "vae").eval()
        pixels = torch.rand(1, 3, 64, 64)
        expected = vae.encode(2 * pixels - 1).latent_dist.mean * vae.config.scaling_factor
        assert_close(model.image_decoder.decoder.vae.to_latents(pixels, None), expected, "model")
    assert model.image_decoder.neg_prompt_embeds.std() > 0.1


def test_every_file_is_pinned_by_its_digest_and_equal_parts_give_equal_bytes(folders: PublicFolders, tmp_path: Path) -> None:
    put_together(folders, tmp_path / "one")
    put_together(folders, tmp_path / "two")
    record = json.loads((tmp_path / "one" / RECORD_FILE).read_text())
    assert record["files"]["vision/model.safetensors"] == file_sha256(folders.vision / "model.safetensors")
    roles = {"vision": folders.vision, "language": folders.language, "diffusion": folders.diffusion}
    there = {f"{role}/{path.relative_to(root)}": path for role, root in roles.items() for path in root.rglob("*") if path.is_file()}
    del there["language/generation_config.json"]  # not read
    assert record["files"] == {name: file_sha256(path) for name, path in there.items()}
    for name in ("model.safetensors", RECORD_FILE):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_what_cannot_be_used_is_named_and_nothing_is_left(folders: PublicFolders, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(WeightsError, match=r"config\.json is missing"):
        put_together(PublicFolders(empty, folders.language, folders.diffusion), tmp_path / "start")
    (empty / "config.json").write_text((folders.vision / "config.json").read_text())
    with pytest.raises(WeightsError, match=r"no \*\.safetensors"):
        put_together(PublicFolders(empty, folders.language, folders.diffusion), tmp_path / "start")
    with pytest.raises(ConfigError, match="holds a clip_vision_model model; the language"):
        put_together(PublicFolders(folders.vision, folders.vision, folders.diffusion), tmp_path / "start")
    scaled = tmp_path / "scaled"
    nameless = tmp_path / "nameless"
    nameless.mkdir()
    (nameless / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds a nameless model; the language"):
        put_together(PublicFolders(folders.vision, nameless, folders.diffusion), tmp_path / "start")
    LlamaConfig(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}).save_pretrained(scaled)
    with pytest.raises(ConfigError, match="scales its rotary positions"):
        put_together(PublicFolders(folders.vision, scaled, folders.diffusion), tmp_path / "start")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "nameless", "scaled"]


def test_a_siglip_may_be_the_encoder(folders: PublicFolders, tmp_path: Path) -> None:
    torch.manual_seed(0)
    siglip = SiglipVisionModel(
        SiglipVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2, image_size=64, patch_size=16)
    ).eval()
    siglip.save_pretrained(tmp_path / "siglip")
    put_together(PublicFolders(tmp_path / "siglip", folders.language, folders.diffusion), tmp_path / "start")
    model = load_model(tmp_path / "start")
    assert (model.config.vision.family, model.config.vision.mean) == ("siglip", (0.5, 0.5, 0.5))
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        hidden, _ = model.visual_tokenizer.encoder(pixels)
        expected = siglip(pixels, output_hidden_states=True).hidden_states[-1]
    assert_close(hidden, expected, "model")  # the released adapter begins by injecting nothing


def test_an_autoencoder_under_its_older_names_is_the_same(folders: PublicFolders, tmp_path: Path) -> None:
    """Most public Stable Diffusion folders hold its attention as it was before diffusers 0.18."""
    sd = tmp_path / "sd"
    shutil.copytree(folders.diffusion, sd)
    file = sd / "vae" / "diffusion_pytorch_model.safetensors"
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    older, now = {}, load_file(file)
    for key, tensor in now.items():
        old = next((key.replace(new, old) for new, old in names.items() if new in key), key)
        older[old] = tensor[:, :, None, None].contiguous() if old != key and tensor.ndim == 2 else tensor
    assert len(older.keys() - now.keys()) == 16
    save_file(older, file)
    put_together(replace(folders, diffusion=sd), tmp_path / "start")
    made = load_file(tmp_path / "start" / "model.safetensors")
    assert all(torch.equal(made[f"image_decoder.decoder.vae.{key}"], tensor) for key, tensor in now.items())


@pytest.mark.parametrize("kind", [PNDMScheduler, DDIMScheduler, EulerDiscreteScheduler])
def test_the_sampler_a_pipeline_was_saved_with_does_not_matter(folders: PublicFolders, tmp_path: Path, kind: type[SchedulerMixin]) -> None:
    """Each notes settings that the others do not know; the noise that the UNet was trained with is the same."""
    sd = tmp_path / "sd"
    shutil.copytree(folders.diffusion, sd)
    shutil.rmtree(sd / "scheduler")
    kind(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").save_pretrained(sd / "scheduler")
    put_together(replace(folders, diffusion=sd), tmp_path / "start")
    schedule = load_model(tmp_path / "start").image_decoder.schedule
    expected = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    assert torch.equal(schedule.alphas_cumprod, expected.alphas_cumprod)
    assert schedule.config["clip_sample"] is False  # latents reach beyond -1..1


def test_a_schedule_without_betas_is_refused(folders: PublicFolders, tmp_path: Path) -> None:
    sd = tmp_path / "sd"
    shutil.copytree(folders.diffusion, sd)
    FlowMatchEulerDiscreteScheduler().save_pretrained(sd / "scheduler")
    with pytest.raises(ConfigError, match="FlowMatchEulerDiscreteScheduler without beta_schedule"):
        put_together(replace(folders, diffusion=sd), tmp_path / "start")


def test_folders_of_one_name_are_told_apart_by_their_role(folders: PublicFolders, tmp_path: Path) -> None:
    shutil.copytree(folders.vision, tmp_path / "clip" / "main")
    shutil.copytree(folders.language, tmp_path / "language" / "main")
    put_together(PublicFolders(tmp_path / "clip" / "main", tmp_path / "language" / "main", folders.diffusion), tmp_path / "start")
    files = json.loads((tmp_path / "start" / RECORD_FILE).read_text())["files"]
    assert files["vision/model.safetensors"] == file_sha256(folders.vision / "model.safetensors")
    assert files["language/model.safetensors"] == file_sha256(folders.language / "model.safetensors")


@pytest.mark.parametrize(
    ("part", "key", "value", "said"),
    [
        ("unet", "addition_embed_type", "text_time", r"unet\.addition_embed_type 'text_time' is not supported"),
        ("unet", "class_embed_type", "timestep", r"unet\.class_embed_type 'timestep' is not supported"),
        ("unet", "in_channels", 9, "reads 9 channels, its autoencoder gives 4; UNets for inpainting"),
        ("unet", "deep_cache", 1, "deep_cache mean nothing to UNet2DConditionModel"),
        ("vae", "deep_cache", 1, "deep_cache mean nothing to AutoencoderKL"),
        ("unet", "cross_attention_dim", 64, "text_encoder is 32 wide and its UNet reads 64"),
    ],
)
def test_pipelines_of_another_kind_are_refused(
    folders: PublicFolders, tmp_path: Path, part: str, key: str, value: object, said: str
) -> None:
    """Before anything is built: what the model's own forward leaves out would be lost without a word."""
    sd = tmp_path / "sd"
    shutil.copytree(folders.diffusion, sd)
    file = sd / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(ConfigError, match=said):
        put_together(replace(folders, diffusion=sd), tmp_path / "start")


def test_a_pipeline_without_its_words_is_refused(folders: PublicFolders, tmp_path: Path) -> None:
    sd = tmp_path / "sd"
    shutil.copytree(folders.diffusion, sd)
    for path in (sd / "tokenizer").iterdir():
        path.unlink()
    with pytest.raises(WeightsError, match=r"holds neither tokenizer\.json nor vocab\.json and merges\.txt"):
        put_together(replace(folders, diffusion=sd), tmp_path / "start")


def test_the_weights_are_those_that_the_library_reads(tmp_path: Path) -> None:
    """One precision of several, all parts that an index names; several files without an index could be anything."""
    for name in ("unet-00001-of-00002", "unet-00002-of-00002"):
        (tmp_path / f"{name}.safetensors").touch()
    with pytest.raises(WeightsError, match=r"holds 2 .* and no index"):
        safetensors_files(tmp_path)
    index = {"weight_map": {"a": "unet-00001-of-00002.safetensors", "b": "unet-00002-of-00002.safetensors"}}
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "diffusion_pytorch_model.fp16.safetensors").touch()
    assert [path.name for path in safetensors_files(tmp_path)] == list(index["weight_map"].values())
    (tmp_path / "model.fp16.safetensors").touch()
    (tmp_path / "model.safetensors").touch()
    assert [path.name for path in safetensors_files(tmp_path)] == ["model.safetensors"]

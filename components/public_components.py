"""A model put together from public folders: an encoder, a language model, a diffusion pipeline.

Frozen parts come from the folders, the rest begins as released. The folders are read as they are on disk; nothing is asked of a hub.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, CLIPTextModel, CLIPTokenizerFast

from components.component_files import component_files, digests, read_json, safetensors_files, tensors_of, write_record
from components.run.filetree import whole_folder
from components.vae_names import current_name, current_shape
from model.build import build_model, build_on_meta, save_model
from model.config import ConfigError, LanguageConfig, ModelConfig, VisionConfig
from model.language_families import FAMILIES
from model.mm_interleaved import MMInterleaved
from model.presets import published, published_resampler
from model.weights import WeightsError, check_new

Progress = Callable[[str, int, int], None]
"""Is told what was done, and how many steps of how many that were."""
_OURS = ("adapter_", "llama_cross_attn", "position_ids")
_VISION = ("image_px", "patch_px", "width", "layers", "heads", "mlp", "activation", "layer_norm_eps", "family", "mean", "std")
_LANGUAGE = ("width", "layers", "heads", "kv_heads", "mlp", "rms_eps", "rope_theta", "family", "head_width")


@dataclass(frozen=True)
class PublicFolders:
    """Where the components are: transformers' folders, and a diffusers pipeline with unet, vae, scheduler, tokenizer and text_encoder."""

    vision: Path
    language: Path
    diffusion: Path


def assemble(
    folders: PublicFolders,
    target: Path,
    *,
    visual_tokens: int,
    condition_heads: int,
    seed: int,
    progress: Progress,
    wanted: ModelConfig | None = None,
) -> ModelConfig:
    """Write a model folder with safetensors, config.json and components.json (the digest of every file used); whole or not at all.

    With `wanted` it becomes that model, which must be the one that the components are of; else the release's around them.
    Raises ConfigError for a component of another kind, WeightsError naming the file or tensor that is missing or does not fit.
    """
    check_new(target)
    config = configuration(folders, visual_tokens=visual_tokens, condition_heads=condition_heads)
    if wanted is not None:
        check_components(config, wanted)
        config = wanted
    build_on_meta(config)  # what cannot be built is told before anything large is read
    unconditional, used = _unconditional(folders.diffusion, config.image_decoder.resampler.width)
    used |= digests("diffusion/scheduler", [folders.diffusion / "scheduler" / "scheduler_config.json"])
    model = build_model(config, seed)
    with torch.no_grad():
        parts = (
            ("vision", folders.vision, "visual_tokenizer.encoder.", vision_name),
            ("language", folders.language, "mm_decoder.", language_name),
            ("diffusion/unet", folders.diffusion / "unet", "image_decoder.decoder.unet.", "image_decoder.decoder.unet.{}".format),
            ("diffusion/vae", folders.diffusion / "vae", "image_decoder.decoder.vae.", vae_name),
        )
        for number, (role, folder, root, names) in enumerate(parts, 1):
            used |= digests(role, component_files(folder))
            _take(model, folder, root, names)
            progress(f"{role} read", number, len(parts) + 1)
        model.get_parameter("image_decoder.neg_prompt_embeds").copy_(unconditional)
    with whole_folder(target) as fresh:
        save_model(model, fresh)
        write_record(fresh, seed, used)
    progress(f"{target.name} written", len(parts) + 1, len(parts) + 1)
    return config


def check_components(found: ModelConfig, wanted: ModelConfig) -> None:
    """Raises ConfigError naming what the components are otherwise than a model asks for. What they do not say is not compared."""
    rows = [
        *_differing("vision", found.vision, wanted.vision, _VISION),
        *_differing("language", _whole(found.language), _whole(wanted.language), _LANGUAGE),
        *_differing("model", found, wanted, ("vocab_size", "bos_id", "eos_id")),
    ]
    for name in ("unet", "scheduler"):
        rows += _differing_keys(name, getattr(found.image_decoder, name), getattr(wanted.image_decoder, name))
    rows += _differing_keys("vae", found.image_decoder.autoencoder.values, wanted.image_decoder.autoencoder.values)
    if rows:
        raise ConfigError("the components are those of another model: " + "; ".join(rows) + "; set `model` or `data.tokenizer` to fit them")


def _whole(language: LanguageConfig) -> LanguageConfig:
    """With the width of a head said, which may be left to follow from the others."""
    return replace(language, head_width=language.head_width or language.width // language.heads)


def _differing(part: str, found: object, wanted: object, names: Sequence[str]) -> list[str]:
    pairs = [(name, getattr(found, name), getattr(wanted, name)) for name in names]
    return [f"{part}.{name} is {have!r}, the model has {want!r}" for name, have, want in pairs if have != want]


def _differing_keys(part: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    pairs = [(name, found[name], wanted[name]) for name in sorted(found.keys() & wanted.keys())]
    return [f"{part}.{name} is {have!r}, the model has {want!r}" for name, have, want in pairs if _plainly(have) != _plainly(want)]


def _plainly(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def configuration(folders: PublicFolders, *, visual_tokens: int, condition_heads: int) -> ModelConfig:
    """The release's architecture around these components. Raises ConfigError, WeightsError for a configuration that is not there."""
    vision = _vision(read_json(folders.vision / "config.json"))
    language, tokens, vocabulary = _language(folders.language)
    unet = _plain(folders.diffusion / "unet", UNet2DConditionModel)
    side = unet.get("sample_size")
    if not all(isinstance(unet.get(key), int) for key in ("sample_size", "cross_attention_dim", "in_channels")):
        raise ConfigError(
            f"{folders.diffusion / 'unet'}: sample_size, cross_attention_dim and in_channels must be numbers; use a text-to-image UNet"
        )
    vae = _plain(folders.diffusion / "vae", AutoencoderKL)
    if unet["in_channels"] != vae.get("latent_channels", 4):
        raise ConfigError(
            f"{folders.diffusion / 'unet'} reads {unet['in_channels']} channels, its autoencoder gives {vae.get('latent_channels', 4)}; "
            "UNets for inpainting, depth and editing are not supported, use a text-to-image one"
        )
    factor = 2 ** (len(vae.get("block_out_channels", ())) - 1)
    if factor != 8:
        raise ConfigError(f"{folders.diffusion / 'vae'} shrinks pictures {factor} times; the release's wiring is for 8")
    return published(
        vocabulary,
        vision=vision,
        visual_resampler=published_resampler(visual_tokens, vision.width),
        language=language,
        unet=unet,
        vae=vae,
        output_px=side * factor,
        condition_heads=condition_heads,
        scheduler=_schedule(folders.diffusion / "scheduler"),
        **tokens,
    )


def _vision(values: Mapping[str, Any]) -> VisionConfig:
    values = values.get("vision_config", values)
    kind = str(values.get("model_type"))
    if not kind.startswith(("clip", "siglip")) or kind.startswith("siglip2"):
        raise ConfigError(f"the vision folder holds a {kind} model; the encoder must be a CLIP or a SigLIP")
    siglip = kind.startswith("siglip")
    half = (0.5, 0.5, 0.5)
    try:
        config = VisionConfig(
            image_px=values["image_size"],
            patch_px=values["patch_size"],
            width=values["hidden_size"],
            layers=values["num_hidden_layers"],
            heads=values["num_attention_heads"],
            mlp=values["intermediate_size"],
            activation=values.get("hidden_act", "gelu_pytorch_tanh" if siglip else "quick_gelu"),
            layer_norm_eps=values.get("layer_norm_eps", 1e-6 if siglip else 1e-5),
            family="siglip" if siglip else "clip",
        )
    except KeyError as error:
        raise ConfigError(f"the vision folder's config.json has no {error}; fetch it again") from None
    return replace(config, mean=half, std=half) if siglip else config


def _language(folder: Path) -> tuple[dict[str, Any], dict[str, int], int]:
    """Fields of LanguageConfig, the special tokens, and the entries of the vocabulary."""
    kind = read_json(folder / "config.json").get("model_type", "nameless")
    if kind not in FAMILIES:
        raise ConfigError(f"{folder} holds a {kind} model; the language model must be one of {', '.join(FAMILIES)}")
    values = AutoConfig.from_pretrained(folder, local_files_only=True)
    rope = values.rope_parameters
    if rope.get("rope_type", "default") != "default":
        raise ConfigError(f"{folder} scales its rotary positions ({rope['rope_type']}), which is not supported; use a model that does not")
    fields = {
        "width": values.hidden_size,
        "layers": values.num_hidden_layers,
        "heads": values.num_attention_heads,
        "kv_heads": values.num_key_value_heads,
        "mlp": values.intermediate_size,
        "rms_eps": values.rms_norm_eps,
        "rope_theta": rope["rope_theta"],
        "max_positions": values.max_position_embeddings,
        "family": values.model_type,
        "head_width": getattr(values, "head_dim", None),
    }
    eos = values.eos_token_id[0] if isinstance(values.eos_token_id, list) else values.eos_token_id
    if eos is None:
        raise ConfigError(f"{folder}: config.json names no eos_token_id, so a document could not end; add it")
    tokens = {
        "eos_id": eos,
        # Families without a token for the start of a text begin documents with the one that ends them.
        "bos_id": eos if values.bos_token_id is None else values.bos_token_id,
        "pad_id": values.vocab_size - 1 if values.pad_token_id is None else values.pad_token_id,
    }
    return fields, tokens, values.vocab_size


def _schedule(folder: Path) -> dict[str, Any]:
    """The betas that the UNet was trained with, whichever sampler the pipeline was saved with."""
    values = read_json(folder / "scheduler_config.json")
    if "beta_schedule" not in values:
        name = values.get("_class_name", "schedule")
        raise ConfigError(f"{folder} holds a {name} without beta_schedule; use a Stable Diffusion pipeline")
    known = inspect.signature(DDPMScheduler).parameters
    # Latents reach beyond -1..1: as in diffusers' own pipeline they are never clipped, which DDPM does where a folder says nothing.
    return {key: value for key, value in values.items() if key in known} | {"clip_sample": False}


def vae_name(key: str) -> str:
    """A tensor of the autoencoder, whose attention has older names in most public folders."""
    return current_name(f"image_decoder.decoder.vae.{key}")


def vision_name(key: str) -> str | None:
    """The image tower, which stands alone in some folders; its last norm is left out by the release."""
    key = key.removeprefix("vision_model.")
    taken = key.startswith(("embeddings.", "pre_layrnorm.", "encoder.")) and not key.endswith("position_ids")
    return f"visual_tokenizer.encoder.vision_model.{key}" if taken else None


def language_name(key: str) -> str | None:
    """The decoder's layers, its embeddings and its head."""
    if key == "lm_head.weight":
        return "text_decoder.head.weight"
    return f"mm_decoder.{key.removeprefix('model.')}" if key.startswith("model.") and "rotary" not in key else None


def _take(model: MMInterleaved, folder: Path, root: str, names: Callable[[str], str | None]) -> None:
    """Copy a component's tensors into the model, where they must fill all below `root` but what is ours.

    Tables of tokens have two rows more in the model.
    """
    own = model.state_dict()
    taken: set[str] = set()
    for path in safetensors_files(folder):
        for key, tensor in tensors_of(path):
            name = names(key)
            if name is None:
                continue
            if name not in own:
                raise WeightsError(f"{path}: {key} has no place in the model; is {folder} the component it is said to be?")
            place = own[name][: len(tensor)] if own[name].ndim and name.endswith(("embed_tokens.weight", "head.weight")) else own[name]
            tensor = current_shape(name, tensor)
            if place.shape != tensor.shape:
                raise WeightsError(f"{path}: {key} is {tuple(tensor.shape)}, its config.json says {tuple(place.shape)}")
            place.copy_(tensor)
            taken.add(name)
    if root == "mm_decoder." and "text_decoder.head.weight" not in taken:  # tied in the public model
        entries = model.config.vocab_size
        own["text_decoder.head.weight"][:entries].copy_(own["mm_decoder.embed_tokens.weight"][:entries])
    missing = {name for name in own if name.startswith(root) and not any(part in name for part in _OURS)} - taken
    if missing:
        raise WeightsError(f"{folder} lacks {len(missing)} tensors, such as {min(missing)}; fetch it again")


def _unconditional(diffusion: Path, width: int) -> tuple[Tensor, dict[str, str]]:
    """What the pipeline's own text encoder makes of an empty text, [1, 77, width], and the files used, by their digests."""
    words, encoder_folder = diffusion / "tokenizer", diffusion / "text_encoder"
    for folder in (words, encoder_folder):
        if not folder.is_dir():
            raise WeightsError(f"{diffusion} has no {folder.name}, which the unconditional embedding comes from; fetch the whole pipeline")
    if not (words / "tokenizer.json").is_file() and not all((words / name).is_file() for name in ("vocab.json", "merges.txt")):
        raise WeightsError(f"{words} holds neither tokenizer.json nor vocab.json and merges.txt; fetch the whole pipeline")
    files = digests("diffusion/text_encoder", component_files(encoder_folder))
    files |= digests("diffusion/tokenizer", (path for path in words.iterdir() if path.is_file()))
    try:
        tokenizer = CLIPTokenizerFast.from_pretrained(words, local_files_only=True)
        encoder = CLIPTextModel.from_pretrained(encoder_folder, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise WeightsError(f"{diffusion}: its tokenizer or text_encoder cannot be read ({error}); fetch the whole pipeline") from None
    ids = tokenizer("", padding="max_length", max_length=77, return_tensors="pt").input_ids
    embedding = encoder.eval()(ids).last_hidden_state
    if embedding.shape[-1] != width:
        raise ConfigError(f"{encoder_folder} is {embedding.shape[-1]} wide and its UNet reads {width}; use the two of one pipeline")
    return embedding, files


def _plain(folder: Path, kind: type) -> dict[str, Any]:
    """A component's configuration, without what the library notes about itself."""
    values = {key: value for key, value in read_json(folder / "config.json").items() if not key.startswith("_")}
    if unknown := sorted(values.keys() - inspect.signature(kind).parameters.keys()):
        raise ConfigError(
            f"{folder / 'config.json'}: {', '.join(unknown)} mean nothing to {kind.__name__}; remove them or use its own folder"
        )
    return values

"""Context of an image to the image: resampled condition, UNet with MMFS, diffusion loss and sampling."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from torch import Tensor, nn

from model.autoencoder import build_autoencoder
from model.batch import PictureTargets
from model.config import ConfigError, CrossAttention, ImageDecoderConfig
from model.mmfs_net import References, build_mmfs_net
from model.protocols import Drawing, PictureContext
from model.resampler import PerceiverResampler
from model.sequence import Pairs

SCHEDULERS = {
    "ddpm": DDPMScheduler,
    "ddim": DDIMScheduler,
    "dpm": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
}
# Inputs and layers of diffusers' UNet that the forward here has no part for, unless they are at the library's default.
_NOT_COMPUTED = (
    "addition_embed_type",
    "attention_type",
    "center_input_sample",
    "class_embed_type",
    "encoder_hid_dim_type",
    "mid_block_type",
    "num_class_embeds",
    "time_cond_proj_dim",
    "time_embedding_act_fn",
)


class DiffusionDecoder(nn.Module):
    """Autoencoder, UNet and the MMFS blocks in it."""

    def __init__(self, config: ImageDecoderConfig, value_width: int, cross_attention: CrossAttention | Literal["off"]) -> None:
        super().__init__()
        _check_unet(config.unet)
        self.vae = build_autoencoder(config.autoencoder)
        self.unet = UNet2DConditionModel(**config.unet)
        self.mmfs_module = None if cross_attention == "off" else build_mmfs_net(config, value_width, cross_attention)

    def references(self, features: Tensor, pairs: Pairs, *, steps: bool = False) -> References | None:
        """Values of the images [s, cells, value_width] that batch rows look at as `pairs` say; None where there is no MMFS.

        `steps`: they are looked at many times with the present weights.
        """
        return None if self.mmfs_module is None else self.mmfs_module.references(features, pairs, steps=steps)

    def forward(self, latents: Tensor, timesteps: Tensor, condition: Tensor, references: References | None) -> Tensor:
        """The UNet's own forward with MMFS in it, in its precision. latents [m, C, h, w], timesteps [m], condition [m, T, width]."""
        unet = self.unet
        latents = latents.to(unet.dtype)
        embedding = unet.time_embedding(unet.get_time_embed(latents, timesteps))
        sample = unet.conv_in(latents)
        skips = [sample]
        for block in unet.down_blocks:
            sample, made = _call(block, condition, hidden_states=sample, temb=embedding)
            skips += made
        sample = unet.mid_block(sample, embedding, encoder_hidden_states=condition)
        if self.mmfs_module is not None and references is not None:
            skips, sample = self.mmfs_module.between(skips, sample, references)
        for index, block in enumerate(unet.up_blocks):
            taken = len(block.resnets)
            sample = _call(block, condition, hidden_states=sample, temb=embedding, res_hidden_states_tuple=tuple(skips[-taken:]))
            skips = skips[:-taken]
            if self.mmfs_module is not None and references is not None:
                sample = self.mmfs_module.after_up(index, sample, references)
        return unet.conv_out(unet.conv_act(unet.conv_norm_out(sample)))


class ImageDecoder(nn.Module):
    """The released image head: the 77-query-style resampler, the unconditional embedding and the diffusion decoder."""

    def __init__(self, config: ImageDecoderConfig, value_width: int, cross_attention: CrossAttention | Literal["off"]) -> None:
        super().__init__()
        self.config = config
        self.perceiver_resampler = PerceiverResampler(config.resampler)
        self.neg_prompt_embeds = nn.Parameter(torch.zeros(1, config.resampler.queries, config.resampler.width))
        self.decoder = DiffusionDecoder(config, value_width, cross_attention)
        self.schedule = DDPMScheduler(**config.scheduler)

    def condition(self, context: Tensor, mask: Tensor) -> Tensor:
        """Context [m, T, language width] with mask [m, T] to condition tokens [m, queries, width]."""
        return self.perceiver_resampler(context, mask)

    def losses(self, context: PictureContext, targets: PictureTargets) -> Tensor:
        """See ImageHead: the mean squared diffusion error of each picture."""
        with torch.no_grad():
            latents = self.decoder.vae.to_latents(targets.images, targets.posterior_noise)
        timesteps = (targets.timesteps_u * self.schedule.config["num_train_timesteps"]).long()
        noisy = self.schedule.add_noise(latents, targets.noise, timesteps)
        condition = self.condition(context.tokens, context.mask)
        condition = torch.where(targets.drop_condition[:, None, None], self.neg_prompt_embeds, condition)
        prediction = self.decoder(noisy, timesteps, condition, self.decoder.references(context.looked_at, context.pairs))
        return (prediction.float() - self._target(latents, targets.noise, timesteps)).square().mean(dim=(1, 2, 3))

    def check(self, how: Drawing) -> None:
        """See ImageHead: noise is removed in at most as many steps as it was learned in."""
        most = int(self.schedule.config["num_train_timesteps"])
        if how.steps > most:
            raise ValueError(f"steps is {how.steps}, this model draws in at most {most}")

    @torch.no_grad()
    def sample(self, context: PictureContext, generators: Sequence[torch.Generator], how: Drawing) -> Tensor:
        """See ImageHead.

        `guidance` strengthens the condition against the images looked at alone, `image_guidance` those against nothing (illume_x.md 3.2);
        with image guidance 1, which is the released classifier-free guidance, the last needs no pass of its own.
        """
        condition = self.condition(context.tokens, context.mask)
        references = self.decoder.references(context.looked_at, context.pairs, steps=True)
        sampler = SCHEDULERS[how.scheduler].from_config(self.schedule.config)
        sampler.set_timesteps(how.steps, device=condition.device)
        shape = self.config.latent_shape
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(condition.device)
        rows = len(condition)
        weights = guidance_weights(how.guidance, how.image_guidance if references is not None else 1.0)
        passes = len(weights)
        unconditional = self.neg_prompt_embeds.expand(rows, -1, -1).to(condition.dtype)
        condition = torch.cat((condition, *[unconditional] * (passes - 1)))
        references = None if references is None else references.repeated(rows, range(min(passes, 2)))
        latents = noise * sampler.init_noise_sigma
        for timestep in sampler.timesteps:
            inputs = sampler.scale_model_input(latents.repeat(passes, 1, 1, 1), timestep)
            predictions = self.decoder(inputs, timestep.expand(len(inputs)), condition, references).chunk(passes)
            prediction = sum_weighted([each.float() for each in predictions], weights)
            latents = sampler.step(prediction, timestep, latents, generator=list(generators)).prev_sample
        return self.decoder.vae.to_images(latents)

    def reencode(self, pictures: Tensor, side: int) -> Tensor:
        """See ImageHead: bicubic, as pictures of the data are resized."""
        if pictures.shape[-1] == side:
            return pictures
        return F.interpolate(pictures, size=(side, side), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)

    def checkpoint_activations(self) -> None:
        """See ImageHead."""
        self.decoder.unet.enable_gradient_checkpointing()

    def _target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        kind = self.schedule.config["prediction_type"]
        if kind == "epsilon":
            return noise
        return latents if kind == "sample" else self.schedule.get_velocity(latents, noise, timesteps)


def guidance_weights(guidance: float, image_guidance: float) -> tuple[float, ...]:
    """Weights of the predictions with condition and images, with images alone and with neither, as far as each is needed; their sum is 1.

    illume_x.md 3.2: guidance (full - images) + image_guidance (images - nothing) + nothing.
    """
    if image_guidance != 1.0:
        return (guidance, image_guidance - guidance, 1.0 - image_guidance)
    return (guidance, 1.0 - guidance) if guidance != 1.0 else (1.0,)


def sum_weighted(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The sum of the tensors, each times its weight."""
    total = tensors[0] * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total = total + tensor * weight
    return total


def _check_unet(values: Mapping[str, Any]) -> None:
    """Raises ConfigError for a UNet whose own forward does more than DiffusionDecoder's: it would be left out without a word."""
    plain = inspect.signature(UNet2DConditionModel).parameters
    for key in _NOT_COMPUTED:
        if values.get(key, plain[key].default) != plain[key].default:
            raise ConfigError(f"image_decoder.unet.{key} {values[key]!r} is not supported; use the UNet of Stable Diffusion 1 or 2")


def _call(block: nn.Module, condition: Tensor, **inputs: Any) -> Any:
    """A UNet block, with the condition if it has cross-attention."""
    if getattr(block, "has_cross_attention", False):
        inputs["encoder_hidden_states"] = condition
    return block(**inputs)

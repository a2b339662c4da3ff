"""Pictures to latents and back, behind one protocol."""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from model.config import AutoencoderConfig


class Autoencoder(Protocol):
    """What the image decoder needs of an autoencoder."""

    def to_latents(self, images: Tensor, noise: Tensor | None) -> Tensor:
        """images [n, 3, px, px] in 0..1 to latents [n, C, h, w]; `noise` draws from the posterior, None takes its mean."""
        ...

    def to_images(self, latents: Tensor) -> Tensor:
        """Inverse, clamped to 0..1."""
        ...


class PixelAutoencoder(nn.Module):
    """Lossless and without parameters: each factor x factor patch becomes the channels of one latent cell."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def to_latents(self, images: Tensor, noise: Tensor | None) -> Tensor:
        """See Autoencoder; there is no posterior."""
        return F.pixel_unshuffle(2 * images - 1, self.factor)

    def to_images(self, latents: Tensor) -> Tensor:
        """See Autoencoder."""
        return (F.pixel_shuffle(latents, self.factor) / 2 + 0.5).clamp(0, 1)


class KlAutoencoder(AutoencoderKL):
    """Stable Diffusion's autoencoder, never trained. Pictures and latents are float32, whatever precision its own weights have."""

    def to_latents(self, images: Tensor, noise: Tensor | None) -> Tensor:
        """See Autoencoder."""
        posterior = self.encode((2 * images.float() - 1).to(self.dtype)).latent_dist
        drawn = posterior.mean if noise is None else posterior.mean + posterior.std * noise
        return drawn.float() * self.config["scaling_factor"]

    def to_images(self, latents: Tensor) -> Tensor:
        """See Autoencoder."""
        decoded = self.decode((latents.float() / self.config["scaling_factor"]).to(self.dtype)).sample
        return (decoded.float() / 2 + 0.5).clamp(0, 1)


def build_autoencoder(config: AutoencoderConfig) -> PixelAutoencoder | KlAutoencoder:
    """The configured autoencoder, frozen."""
    if config.kind == "pixel":
        return PixelAutoencoder(config.factor)
    return KlAutoencoder(**config.values).requires_grad_(False)

"""What goes into a training step and what comes out."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor

from model.config import ModelShape


class InputError(ValueError):
    """A batch or prompt cannot be used; the message names what is wrong with it and what to do."""


@dataclass(frozen=True)
class PictureTargets:
    """Pictures to learn and the random numbers that belong to each; shapes and ranges as in InterleavedBatch."""

    images: Tensor
    drop_condition: Tensor
    timesteps_u: Tensor
    noise: Tensor
    posterior_noise: Tensor | None = None


@dataclass(frozen=True)
class InterleavedBatch:
    """Packed rows and their images, flat over the batch in row order.

    text_ids [B, L] int64; attention_mask [B, L] bool; document_ids [B, L] int64, 0 is padding, else 1.. within a row, contiguous;
    targets_mask [B, L] bool, a token that is a trained target (its loss is taken where it is predicted);
    images [n, 3, px, px] float32 in 0..1 at encoder size; target_images [n, 3, px, px] in 0..1 at decoder size;
    image_row, image_column [n] int64, the row and column of each image's BoI; image_loss_mask [n] bool; drop_condition [n] bool;
    timesteps_u [n] float in [0, 1); noise [n, C, h, w] float32 in latent shape; posterior_noise like noise, for a variational autoencoder
    (its mean is used where absent). The random values belong to the sample, so a step does not depend on ranks or batching.
    Absent, as in the release, or: target_weight [B, L] float32, how much the loss of a token that is a target counts (1 where absent);
    unread [B, L] bool, texts that no other token and no picture is made from; drop_images [n] bool, pictures that are drawn without looking
    at others.
    """

    text_ids: Tensor
    attention_mask: Tensor
    document_ids: Tensor
    targets_mask: Tensor
    images: Tensor
    target_images: Tensor
    image_row: Tensor
    image_column: Tensor
    image_loss_mask: Tensor
    drop_condition: Tensor
    timesteps_u: Tensor
    noise: Tensor
    posterior_noise: Tensor | None = None
    target_weight: Tensor | None = None
    unread: Tensor | None = None
    drop_images: Tensor | None = None

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The same batch on another device."""
        present = {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}
        return replace(self, **{name: value.to(device, non_blocking=non_blocking) for name, value in present.items()})

    def picture_targets(self, chosen: Tensor) -> PictureTargets:
        """What is to be learned of these images, [m] indices."""
        posterior = self.posterior_noise
        return PictureTargets(
            images=self.target_images[chosen],
            drop_condition=self.drop_condition[chosen],
            timesteps_u=self.timesteps_u[chosen],
            noise=self.noise[chosen],
            posterior_noise=None if posterior is None else posterior[chosen],
        )

    @property
    def is_blank(self) -> bool:
        """Whether the only picture is that of `with_blank_image`, which has no place in the text."""
        last = self.text_ids.shape[1] - 1
        return len(self.image_row) == 1 and int(self.image_column[0]) == last and not bool(self.image_loss_mask[0])

    def with_blank_image(self, shape: ModelShape) -> Self:
        """A batch without images gets one that nobody sees and no loss counts, so that every rank uses the same parameters."""
        device = self.text_ids.device
        integers = torch.zeros(1, dtype=torch.int64, device=device)
        flags = torch.zeros(1, dtype=torch.bool, device=device)
        return replace(
            self,
            images=torch.zeros(1, 3, shape.image_px, shape.image_px, device=device),
            target_images=torch.zeros(1, 3, shape.output_px, shape.output_px, device=device),
            image_row=integers,
            image_column=integers + self.text_ids.shape[1] - 1,
            image_loss_mask=flags,
            drop_condition=flags,
            timesteps_u=torch.zeros(1, device=device),
            noise=torch.zeros(1, *shape.latent_shape, device=device),
            posterior_noise=None,
            drop_images=None,
        )


def picture_fault(pixels: Tensor) -> str | None:
    """What is wrong with the values of pictures that should lie in 0..1; None if nothing is. Waits for the device they are on."""
    if not pixels.is_floating_point():
        return f"has values of type {str(pixels.dtype).removeprefix('torch.')}, expected floats from 0 to 1; divide bytes by 255"
    if not pixels.numel():
        return None
    low, high = (float(value) for value in pixels.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        return "has NaN or infinite values; look at how it was read and resized"
    if low < 0 or high > 1:
        return f"has values from {low:g} to {high:g}, expected 0 to 1; divide bytes by 255, the model normalises itself"
    return None


class MMInterleavedOutput(NamedTuple):
    """Losses of one step, as a tuple, in which hooks into modules see them.

    The sums and counts are there so that a mean can be taken over all ranks and accumulation steps.

    loss, text_loss, image_loss: scalars, means over this batch (0 where nothing is trained); text_loss_sum over text_count targets (both
    weighted where targets have weights); image_loss_sum of per-image means over image_count images. text_losses [K] and image_losses [m]:
    the losses in the order of `Layout.predict` and `Layout.decoded`, without weights and gradient; no image losses where the image head did
    not run. predicted [K] int64: the likeliest token at each target, in evaluation mode only.
    """

    loss: Tensor
    text_loss: Tensor
    image_loss: Tensor
    text_loss_sum: Tensor
    text_count: Tensor
    image_loss_sum: Tensor
    image_count: Tensor
    text_losses: Tensor
    image_losses: Tensor
    predicted: Tensor | None = None

"""What a batch must be before any work: else an accelerator answers with a crash, NaN losses or pictures in the wrong places."""

from __future__ import annotations

import torch
from torch import Tensor

from model.batch import InputError, InterleavedBatch, picture_fault
from model.config import ModelConfig


def check_batch(batch: InterleavedBatch, config: ModelConfig) -> None:
    """Raises InputError naming what is wrong with a batch and the fix; see `model.sequence.plan`."""
    _check_shapes(batch, config)
    _check_ids(batch.text_ids, config)
    _check_pictures(batch)
    _check_random(batch)
    _check_places(batch, config)


def _check_shapes(batch: InterleavedBatch, config: ModelConfig) -> None:
    shape, ids, count = config.shape, batch.text_ids, len(batch.image_row)
    if ids.dim() != 2 or ids.dtype != torch.int64:
        raise InputError(f"text_ids are {ids.dtype} of {tuple(ids.shape)}, expected int64 of (rows, tokens)")
    expected: dict[str, tuple[int, ...]] = dict.fromkeys(
        ("attention_mask", "document_ids", "targets_mask", "target_weight", "unread"), tuple(ids.shape)
    )
    expected |= dict.fromkeys(("image_row", "image_column", "image_loss_mask", "drop_condition", "drop_images", "timesteps_u"), (count,))
    expected |= {"images": (count, 3, shape.image_px, shape.image_px), "target_images": (count, 3, shape.output_px, shape.output_px)}
    expected |= dict.fromkeys(("noise", "posterior_noise"), (count, *shape.latent_shape))
    for name, size in expected.items():
        tensor = getattr(batch, name)
        if tensor is not None and tuple(tensor.shape) != size:
            raise InputError(
                f"{name} is {tuple(tensor.shape)}, expected {size} for {len(ids)} rows with {count} pictures (image_row); "
                "make the batch for this model (ModelConfig.shape)"
            )
    for name in ("image_row", "image_column", "document_ids"):
        if (tensor := getattr(batch, name)).dtype != torch.int64:
            raise InputError(f"{name} is {tensor.dtype}, expected int64")


def _check_ids(ids: Tensor, config: ModelConfig) -> None:
    entries, longest = config.vocab_size + 2, config.language.max_positions
    if ids.shape[1] > longest:
        raise InputError(f"rows have {ids.shape[1]} tokens, the model reads at most {longest}; pack shorter rows (row_tokens)")
    low, high = (int(value) for value in ids.aminmax())
    if low < 0 or high >= entries:
        wrong = low if low < 0 else high
        raise InputError(
            f"text_ids hold {wrong}, the model's ids are 0 to {entries - 1} (a vocabulary of {config.vocab_size}, BoI and placeholder); "
            "prepare the data with the tokenizer that the model was made for"
        )


def _check_pictures(batch: InterleavedBatch) -> None:
    for name, pictures in (("images", batch.images), ("target_images", batch.target_images)):
        if (name == "target_images" and pictures is batch.images) or picture_fault(pictures) is None:
            continue
        for number, picture in enumerate(pictures):
            if fault := picture_fault(picture):
                raise InputError(f"{name}: {_named(batch, number)} {fault}")


def _check_random(batch: InterleavedBatch) -> None:
    for name, noise in (("noise", batch.noise), ("posterior_noise", batch.posterior_noise)):
        if noise is not None:
            _refuse(batch, ~noise.isfinite().flatten(1).all(1), f"has NaN or infinite values in {name}; draw it from a normal distribution")
    drawn = batch.timesteps_u
    _refuse(batch, ~((drawn >= 0) & (drawn < 1)), "has a timesteps_u outside 0 to 1 (1 not included); draw it uniformly")


def _check_places(batch: InterleavedBatch, config: ModelConfig) -> None:
    """Each picture has a BoI at its place and its placeholders right behind it, and there are no others; the blank picture has neither."""
    ids, visual = batch.text_ids, config.visual_resampler.queries
    rows, columns = ids.shape
    row, column = batch.image_row, batch.image_column
    _refuse(batch, (row < 0) | (row >= rows) | (column < 0) | (column >= columns), f"lies outside the {rows} rows of {columns} tokens")
    count = 0 if batch.is_blank else len(row)
    is_image = (ids == config.tokens.image).flatten()
    if int(is_image.sum()) != count * visual:
        raise InputError(
            f"text_ids hold {int(is_image.sum())} image placeholders, but {count} images of {visual} visual tokens need {count * visual}; "
            "was the data packed for another model?"
        )
    if not count:
        return
    place = row * columns + column
    _refuse(batch, place.diff(prepend=place[:1] - 1) <= 0, "does not come after the picture before it; order pictures by row and column")
    _refuse(batch, ids.flatten()[place] != config.tokens.boi, "has no BoI there; image_row and image_column must be where its BoI is")
    behind = (place[:, None] + 1 + torch.arange(visual, device=place.device)).clamp(max=ids.numel() - 1)
    complete = is_image[behind].all(1) & (column + visual < columns)
    _refuse(batch, ~complete, f"has no {visual} placeholders right behind its BoI; was its row cut there?")


def _refuse(batch: InterleavedBatch, wrong: Tensor, told: str) -> None:
    if wrong.any():
        raise InputError(f"{_named(batch, int(wrong.nonzero()[0]))} {told}")


def _named(batch: InterleavedBatch, number: int) -> str:
    return f"picture {number} (row {int(batch.image_row[number])}, column {int(batch.image_column[number])})"

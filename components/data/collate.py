"""Laid-out documents to the model's batch. Every random number belongs to (seed, epoch, document, image, purpose)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from components.data.conditions import Mode, mode_of
from components.data.keyed import generator
from components.data.layout import SWAPPED_KINDS, Columns, Encoded, Piece, between, lay_out, swap
from components.data.token_weights import token_weights
from components.data.tokenizer import Tokenizer
from components.data.transforms import as_float
from components.objective_params import ObjectiveParams
from model.batch import InterleavedBatch
from model.config import ModelShape


@dataclass(frozen=True)
class Sample:
    """An encoded document in one epoch of its source, or the part of it from `begin` to `end` (tokens of its content, None is its end).

    `joined`: it goes on in the sequence of the sample before it, which then has no </s>, nor this one an <s>.
    """

    encoded: Encoded
    epoch: int
    begin: int = 0
    end: int | None = None
    joined: bool = False


_PLAIN = ObjectiveParams()


@dataclass(frozen=True)
class Collator:
    """Makes batches of packed rows; the same rows give the same batch wherever and whenever they are collated.

    Documents that are joined to one sequence share the condition mode of the first.
    """

    tokenizer: Tokenizer
    shape: ModelShape
    row_tokens: int
    condition_drop: float
    seed: int
    objective: ObjectiveParams = _PLAIN

    def batch(self, rows: Sequence[Sequence[Sample]]) -> InterleavedBatch:
        """Rows of samples, each at most `row_tokens` long, to [rows, row_tokens] with padding at the end."""
        ids = np.full((len(rows), self.row_tokens), self.tokenizer.pad, np.int64)
        documents = np.zeros(ids.shape, np.int64)
        trained = np.zeros(ids.shape, bool)
        pictures: list[np.ndarray] = []
        targets: list[np.ndarray] = []
        image_row, image_column, image_loss = [], [], []
        draws: list[tuple[float, bool, np.ndarray]] = []
        unread = np.zeros(ids.shape, bool)
        alone: list[bool] = []
        mode: Mode = "keep"
        for row, samples in enumerate(rows):
            start = number = 0
            for sample, following in zip(samples, [*samples[1:], None], strict=True):
                columns = self._columns(sample, following is not None and following.joined)
                number += not sample.joined
                if not sample.joined:
                    mode = mode_of(self.objective.conditions, self.seed, sample.epoch, sample.encoded.id)
                end = start + len(columns.ids)
                ids[row, start:end], trained[row, start:end], documents[row, start:end] = columns.ids, columns.trained, number
                for image, column, loss in columns.images:
                    pictures.append(sample.encoded.encoder[image])
                    targets.append(sample.encoded.target[image])
                    image_row.append(row)
                    image_column.append(start + column)
                    image_loss.append(loss)
                    draws.append(self._draws(sample, image, loss, mode))
                    alone.append(mode == "drop_both")
                if mode != "keep":
                    trained[row, start:end] = False
                    unread[row, start:end] = ~np.isin(ids[row, start:end], self._control)
                start = end
        images = _floats(pictures, self.shape.image_px)
        weights = token_weights(ids, trained, self._control, self.objective)
        drawn = self.objective.conditions.drawn
        return InterleavedBatch(
            text_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(documents > 0),
            document_ids=torch.from_numpy(documents),
            targets_mask=torch.from_numpy(trained),
            images=images,
            target_images=images if self.shape.output_px == self.shape.image_px else _floats(targets, self.shape.output_px),
            image_row=torch.tensor(image_row, dtype=torch.int64),
            image_column=torch.tensor(image_column, dtype=torch.int64),
            image_loss_mask=torch.tensor(image_loss, dtype=torch.bool),
            drop_condition=torch.tensor([drop for _, drop, _ in draws], dtype=torch.bool),
            timesteps_u=torch.tensor([u for u, _, _ in draws], dtype=torch.float32),
            noise=torch.from_numpy(
                np.stack([noise for _, _, noise in draws]) if draws else np.zeros((0, *self.shape.latent_shape), np.float32)
            ),
            target_weight=None if weights is None else torch.from_numpy(weights),
            unread=torch.from_numpy(unread) if drawn else None,
            drop_images=torch.tensor(alone, dtype=torch.bool) if drawn else None,
        )

    @property
    def _control(self) -> list[int]:
        """Tokens that are no text."""
        return [self.tokenizer.pad, self.tokenizer.bos, self.tokenizer.eos, self.tokenizer.boi, self.tokenizer.image]

    def _columns(self, sample: Sample, goes_on: bool) -> Columns:
        """`goes_on`: the next sample belongs to the same sequence."""
        encoded, visual = sample.encoded, self.shape.num_visual_tokens
        pieces: Sequence[Piece] = encoded.pieces
        total = sum(piece.size(visual) for piece in pieces)
        end = total if sample.end is None else sample.end
        if (sample.begin, end) != (0, total):
            pieces = between(pieces, sample.begin, end, visual)
        if encoded.kind in SWAPPED_KINDS:
            pieces = swap(pieces, lambda image: self._key(sample, image, "order").random() < 0.5)
        return lay_out(pieces, self.tokenizer, visual, begins=not sample.joined, ends=end == total and not goes_on)

    def _draws(self, sample: Sample, image: int, loss: bool, mode: Mode) -> tuple[float, bool, np.ndarray]:
        """(timestep in [0, 1), whether the condition is dropped, noise); an image that is not generated needs none."""
        if not loss:
            return 0.0, False, np.zeros(self.shape.latent_shape, np.float32)
        if self.objective.conditions.drawn:
            dropped = mode == "drop_both"
        else:
            dropped = bool(self._key(sample, image, "condition").random() < self.condition_drop)
        return (
            float(self._key(sample, image, "timestep").random(dtype=np.float32)),
            dropped,
            self._key(sample, image, "noise").standard_normal(self.shape.latent_shape, np.float32),
        )

    def _key(self, sample: Sample, image: int, purpose: str) -> np.random.Generator:
        return generator(self.seed, sample.epoch, sample.encoded.id, image, purpose)


def _floats(pictures: list[np.ndarray], px: int) -> torch.Tensor:
    return torch.from_numpy(as_float(np.stack(pictures))) if pictures else torch.zeros(0, 3, px, px)

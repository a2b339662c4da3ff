"""The state of sequences that are being continued: caches, positions, images seen so far. They may differ in length at any time.

Columns are appended for the whole batch; a sequence that takes no token in a column has a hole there, which no later token attends to.
Positions count real tokens only, so a sequence's result does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from model.mm_interleaved import MMInterleaved
from model.mmfs_net import References
from model.sequence import Pairs, check_distances, pairs_from_mask
from model.visual_tokenizer import VisualFeatures


class DecodingState:
    """Sequences of one document each, read by `append` and asked by `logits` and `draw`."""

    def __init__(self, model: MMInterleaved, rows: int) -> None:
        device, width = model.device, model.config.language.width
        self.model = model
        self.cache = DynamicCache()
        self.valid = torch.zeros(rows, 0, dtype=torch.bool, device=device)
        self.hidden = torch.zeros(rows, 0, width, device=device)
        self.length = torch.zeros(rows, dtype=torch.int64, device=device)
        self.owner = torch.arange(rows, device=device)
        self.image_row = torch.zeros(0, dtype=torch.int64, device=device)
        self.image_begin = torch.zeros(0, dtype=torch.int64, device=device)
        self.values: list[Tensor | None] = [None] * model.config.language.layers
        self.looked_up: list[Tensor] = []

    def append(self, tokens: Sequence[Sequence[int]], features: VisualFeatures | None = None) -> None:
        """Continue each row by its tokens (none is allowed). `features`: the images that begin or are filled in here, in row order."""
        tokens_of = self.model.config.tokens
        columns = max(map(len, tokens))
        device = self.length.device
        ids = torch.tensor([[*row, *[tokens_of.pad] * (columns - len(row))] for row in tokens], device=device)
        counts = torch.tensor([len(row) for row in tokens], device=device)
        valid = torch.arange(columns, device=device) < counts[:, None]
        positions = self.length[:, None] + torch.arange(columns, device=device)
        is_image = ids == tokens_of.image
        if features is not None:
            self._see(is_image, positions, features)
        known = torch.cat((self.valid, valid), dim=1)
        own = torch.ones(columns, columns, dtype=torch.bool, device=device)
        fresh = (own.tril() & valid[:, None, :]) | torch.eye(columns, dtype=torch.bool, device=device)
        attention = torch.cat((self.valid[:, None, :].expand(-1, columns, -1), fresh), dim=2).unsqueeze(1)
        image_token = (is_image.flatten().cumsum(0) - 1).clamp(min=0)
        embeddings = self.model.embed(ids, None if features is None else features.tokens, is_image, image_token, ids == tokens_of.boi)
        hidden = self.model.mm_decoder(embeddings, attention, positions, self.values, self._pairs(positions, valid), self.cache)
        self.hidden = torch.cat((self.hidden, hidden), dim=1)
        self.valid = known
        self.length = self.length + counts

    def repeat(self, times: int) -> None:
        """Let `times` rows go on from each row; they share its images and caches, so from here on only text may be appended."""
        self.cache.batch_repeat_interleave(times)
        self.valid, self.hidden, self.length, self.owner = (
            each.repeat_interleave(times, dim=0) for each in (self.valid, self.hidden, self.length, self.owner)
        )

    def logits(self) -> Tensor:
        """Scores of each row's next token, [rows, entries]."""
        last = self.valid.shape[1] - 1 - self.valid.flip(1).int().argmax(1)
        return self.model.text_decoder(self.hidden[torch.arange(len(last), device=last.device), last])

    def draw(self, rows: Sequence[int], generators: Sequence[torch.Generator], **how: Any) -> Tensor:
        """Pictures [len(rows), 3, px, px] of rows that end in BoI; `how` is for ImageDecoder.sample."""
        decoder = self.model.image_decoder
        columns = self.valid.shape[1]
        slices = [self.valid[row].nonzero().flatten().flip(0) + row * columns for row in rows]
        index = torch.nn.utils.rnn.pad_sequence(slices, batch_first=True)
        lengths = torch.tensor([len(each) for each in slices], device=index.device)
        mask = torch.arange(index.shape[1], device=index.device) < lengths[:, None]
        condition = decoder.condition(self.model.context(self.hidden, index, mask), mask)
        return decoder.sample(condition, self._references(rows), generators, **how)

    def _see(self, is_image: Tensor, positions: Tensor, features: VisualFeatures) -> None:
        """Remember new images: where each begins, its values per layer, and its maps for the image decoder."""
        row, column = is_image.nonzero(as_tuple=True)
        count = self.model.config.visual_resampler.queries
        row, column = row[::count], column[::count]
        if len(self.owner.unique()) < len(self.owner):
            raise ValueError("rows that go on from one prefix share its images and cannot be given others")
        self.image_row = torch.cat((self.image_row, self.owner[row]))
        # The BoI before the first placeholder does not see the image, the placeholder does.
        self.image_begin = torch.cat((self.image_begin, positions[row, column]))
        projected = self.model.project(features)
        self.values = [
            new if old is None or new is None else torch.cat((old, new)) for old, new in zip(self.values, projected, strict=True)
        ]
        self.looked_up += self.model.looked_up(features, self.model.config.image_decoder.mmfs)

    def _pairs(self, positions: Tensor, valid: Tensor) -> Pairs:
        mask = (self.owner[:, None, None] == self.image_row) & (self.image_begin <= positions[..., None]) & valid[..., None]
        pairs = pairs_from_mask(mask.flatten(0, 1).unsqueeze(0))
        if self.model.config.visible_images == "nearest":
            nearest = pairs.distance == 1
            pairs = Pairs(pairs.query[nearest], pairs.image[nearest], pairs.distance[nearest])
        check_distances(pairs, self.model.config.language.mmfs, "language.mmfs")
        return pairs

    def _references(self, rows: Sequence[int]) -> References | None:
        """The images that the decoder looks at, the newest of each row or all."""
        config = self.model.config
        seen = [[image for image, owner in enumerate(self.image_row.tolist()) if owner == own] for own in self.owner[list(rows)].tolist()]
        if config.decoder_images == "previous":
            seen = [images[-1:] for images in seen]
        images = [image for each in seen for image in each]
        device = self.hidden.device
        pairs = Pairs(
            query=torch.tensor([place for place, each in enumerate(seen) for _ in each], dtype=torch.int64, device=device),
            image=torch.arange(len(images), device=device),
            distance=torch.tensor([len(each) - number for each in seen for number in range(len(each))], dtype=torch.int64, device=device),
        )
        check_distances(pairs, config.image_decoder.mmfs, "image_decoder.mmfs")
        cells = config.value_cells(config.image_decoder.mmfs)
        features = (
            torch.stack([self.looked_up[image] for image in images]) if images else self.hidden.new_zeros(0, cells, config.value_width)
        )
        return self.model.image_decoder.decoder.references(features, pairs)

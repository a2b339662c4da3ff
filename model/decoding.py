"""The state of sequences that are being continued: caches, positions, images seen so far. They may differ in length at any time.

Columns are appended for the whole batch; a sequence that takes no token in a column has a hole there, which no later token attends to.
Positions count real tokens only, so a sequence's result does not depend on its neighbours. Tensors are never changed in place: what goes
on from one prefix (the answers to a question, the beams of a search, the branches of a conversation) shares what was computed for it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import DynamicCache

from model.batch import InputError, InterleavedBatch
from model.config import SamplerConfig
from model.protocols import Drawing, PictureContext
from model.sequence import Layout, Pairs, check_distances, pairs_from_mask
from model.visual_tokenizer import VisualFeatures

if TYPE_CHECKING:
    from model.mm_interleaved import MMInterleaved


class DecodingState:
    """Sequences of one document each, read by `append` and asked by `logits` and `draw`.

    length [rows] int64: tokens of each so far; sees [rows, images] bool: which images each has in it; begin [images] int64: the position of
    an image's first placeholder, the same in all sequences that have it.
    """

    def __init__(self, model: MMInterleaved, rows: int) -> None:
        device, config = model.device, model.config
        self.model = model
        self.cache = DynamicCache()
        self.valid = torch.zeros(rows, 0, dtype=torch.bool, device=device)
        self.hidden = torch.zeros(rows, 0, config.language.width, dtype=model.dtype, device=device)
        self.length = torch.zeros(rows, dtype=torch.int64, device=device)
        self.sees = torch.zeros(rows, 0, dtype=torch.bool, device=device)
        self.begin = torch.zeros(0, dtype=torch.int64, device=device)
        self.prepared = model.mm_decoder.prepare()
        # Of no images yet; MMFS still adds what a token gets that sees none.
        self.values = model.mm_decoder.project(self._nothing(config.language.mmfs))
        self.looked_up = self._nothing(config.image_decoder.mmfs)

    def append(self, tokens: Sequence[Sequence[int]], features: VisualFeatures | None = None) -> None:
        """Continue each row by its tokens (none is allowed). `features`: the images that begin or are filled in here, in row order."""
        tokens_of = self.model.config.tokens
        columns = max(map(len, tokens))
        if not columns:
            return
        device = self.length.device
        ids = torch.tensor([[*row, *[tokens_of.pad] * (columns - len(row))] for row in tokens], device=device)
        counts = torch.tensor([len(row) for row in tokens], device=device)
        valid = torch.arange(columns, device=device) < counts[:, None]
        positions = self.length[:, None] + torch.arange(columns, device=device)
        is_image = ids == tokens_of.image
        if features is not None:
            self._see(is_image, positions, features)
        image_token = (is_image.flatten().cumsum(0) - 1).clamp(min=0)
        embeddings = self.model.embed(ids, None if features is None else features.tokens, is_image, image_token, ids == tokens_of.boi)
        self._read(embeddings, valid, positions)

    def extend(self, embeddings: Tensor) -> Tensor:
        """Continue each row by k tokens that are in no vocabulary of the model; embeddings and the hidden states are [rows, k, width]."""
        rows, columns, _ = embeddings.shape
        positions = self.length[:, None] + torch.arange(columns, device=embeddings.device)
        return self._read(embeddings, torch.ones(rows, columns, dtype=torch.bool, device=embeddings.device), positions)

    def fork(self) -> DecodingState:
        """A state that goes on from here on its own; it shares every tensor with this one, which stays as it is."""
        forked = copy.copy(self)
        forked.cache = copy.copy(self.cache)
        forked.cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        return forked

    def select(self, rows: Sequence[int]) -> DecodingState:
        """A state that goes on from these rows, each as often as it is named; this one stays as it is."""
        index = torch.tensor(rows, dtype=torch.int64, device=self.length.device)
        chosen = self.fork()
        chosen.cache.batch_select_indices(index)
        chosen.valid, chosen.hidden, chosen.length, chosen.sees = (
            each.index_select(0, index) for each in (self.valid, self.hidden, self.length, self.sees)
        )
        return chosen

    def last(self) -> Tensor:
        """Hidden states of each row's newest token, [rows, width]."""
        last = self.valid.shape[1] - 1 - self.valid.flip(1).int().argmax(1)
        return self.hidden[torch.arange(len(last), device=last.device), last]

    def logits(self) -> Tensor:
        """Scores of each row's next token, [rows, entries]."""
        return self.model.text_decoder(self.last())

    def draw(self, rows: Sequence[int], generators: Sequence[torch.Generator], how: Drawing) -> Tensor:
        """Pictures [len(rows), 3, px, px] of rows that end in BoI."""
        return self.model.image_decoder.sample(self.context(rows), generators, how)

    def reread(self, rows: Sequence[int], pictures: Tensor) -> None:
        """What was drawn after these rows becomes part of them, as the encoder sees it. Raises InputError where there is no room for it."""
        model, shape = self.model, self.model.config.shape
        if int(self.length[list(rows)].max()) + shape.num_visual_tokens > shape.max_row_tokens:
            raise InputError(f"no room to read the picture that was drawn: the model reads at most {shape.max_row_tokens} tokens")
        features = model.visual_tokenizer(model.image_decoder.reencode(pictures.to(model.device), shape.image_px))
        placeholders = [model.config.tokens.image] * shape.num_visual_tokens
        self.append([placeholders if row in rows else [] for row in range(len(self.length))], features)

    def context(self, rows: Sequence[int]) -> PictureContext:
        """What the image head is given of rows that end in BoI."""
        columns = self.valid.shape[1]
        slices = [self.valid[row].nonzero().flatten().flip(0) + row * columns for row in rows]
        index = torch.nn.utils.rnn.pad_sequence(slices, batch_first=True)
        lengths = torch.tensor([len(each) for each in slices], device=index.device)
        mask = torch.arange(index.shape[1], device=index.device) < lengths[:, None]
        images, pairs = self._references(rows)
        tokens = self.model.context(self.hidden, index, mask)
        return PictureContext(tokens, mask, self.looked_up[images], pairs, lambda: self.select(rows))

    def _read(self, embeddings: Tensor, valid: Tensor, positions: Tensor) -> Tensor:
        """Columns [rows, k, width] of which `valid` ones are real; returns their hidden states."""
        columns = valid.shape[1]
        own = torch.ones(columns, columns, dtype=torch.bool, device=valid.device)
        fresh = (own.tril() & valid[:, None, :]) | torch.eye(columns, dtype=torch.bool, device=valid.device)
        attention = torch.cat((self.valid[:, None, :].expand(-1, columns, -1), fresh), dim=2).unsqueeze(1)
        pairs = self._pairs(positions, valid)
        hidden = self.model.mm_decoder(embeddings, attention, positions, self.values, pairs, self.cache, self.prepared)
        self.hidden = torch.cat((self.hidden, hidden), dim=1)
        self.valid = torch.cat((self.valid, valid), dim=1)
        self.length = self.length + valid.sum(1)
        return hidden

    def _see(self, is_image: Tensor, positions: Tensor, features: VisualFeatures) -> None:
        """Remember new images: who has each and where it begins, its values per layer, and its maps for the image decoder."""
        row, column = is_image.nonzero(as_tuple=True)
        count = self.model.config.visual_resampler.queries
        row, column = row[::count], column[::count]
        rows = torch.arange(len(self.sees), device=row.device)
        self.sees = torch.cat((self.sees, rows[:, None] == row), dim=1)
        # The BoI before the first placeholder does not see the image, the placeholder does.
        self.begin = torch.cat((self.begin, positions[row, column]))
        projected = self.model.project(features)
        self.values = [
            None if old is None or new is None else torch.cat((old, new)) for old, new in zip(self.values, projected, strict=True)
        ]
        self.looked_up = torch.cat((self.looked_up, self.model.looked_up(features, self.model.config.image_decoder.mmfs)))

    def _nothing(self, sampler: SamplerConfig) -> Tensor:
        """What this sampler looks up of no images, [0, cells, value_width]."""
        config = self.model.config
        return torch.zeros(0, config.value_cells(sampler), config.value_width, dtype=self.model.dtype, device=self.model.device)

    def _pairs(self, positions: Tensor, valid: Tensor) -> Pairs:
        config = self.model.config
        mask = self.sees[:, None, :] & (self.begin <= positions[..., None]) & valid[..., None]
        pairs = pairs_from_mask(mask.flatten(0, 1).unsqueeze(0))
        if config.visible_images == "nearest":
            pairs = pairs.newest()
        if config.cross_attention != "off":
            check_distances(pairs, config.language.mmfs, "language.mmfs")
        return pairs

    def _references(self, rows: Sequence[int]) -> tuple[Tensor, Pairs]:
        """What the decoder looks at for these rows, the newest image of each or all: the images, and the pairs that number them so."""
        config = self.model.config
        pairs = pairs_from_mask(self.sees[list(rows)].unsqueeze(0))
        if config.decoder_images == "previous":
            pairs = pairs.newest()
        if config.cross_attention != "off":
            check_distances(pairs, config.image_decoder.mmfs, "image_decoder.mmfs")
        images, number = pairs.image.unique(return_inverse=True)
        return images, Pairs(pairs.query, number, pairs.distance)


def read_documents(model: MMInterleaved, batch: InterleavedBatch, features: VisualFeatures, layout: Layout) -> DecodingState:
    """Each decoded image's document up to its BoI as a row of its own, with gradients. Attention is that of one document."""
    context = layout.context.where(layout.context_mask, -1).flip(1).tolist()
    ids = batch.text_ids.flatten().tolist()
    begins = {place: image for image, place in enumerate((batch.image_row * batch.text_ids.shape[1] + batch.image_column).tolist())}
    rows = [[place for place in places if place >= 0] for places in context]
    images = [begins[place] for places in rows for place in places[:-1] if place in begins]
    state = DecodingState(model, len(rows))
    chosen = torch.tensor(images, dtype=torch.int64, device=batch.text_ids.device)
    state.append([[ids[place] for place in places] for places in rows], features.chosen(chosen) if images else None)
    return state

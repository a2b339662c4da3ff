"""MM-Interleaved: the composition root. It wires the parts and holds what lies between them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.batch import InterleavedBatch, MMInterleavedOutput
from model.config import ModelConfig, SamplerConfig
from model.decoding import read_documents
from model.llama_mmfs import LlamaMMFS
from model.losses import joint_loss, text_losses
from model.positions import sincos_1d
from model.protocols import ImageHead, PictureContext
from model.sequence import Layout, plan
from model.text_decoder import TextDecoder
from model.visual_tokenizer import VisualFeatures, VisualTokenizer


class MMInterleaved(nn.Module):
    """Images and text in, text scores and pictures out. State-dict names are those of the release."""

    context_positions: Tensor

    def __init__(
        self,
        config: ModelConfig,
        visual_tokenizer: VisualTokenizer,
        mm_decoder: LlamaMMFS,
        text_decoder: TextDecoder,
        image_decoder: ImageHead,
    ) -> None:
        super().__init__()
        width = config.language.width
        self.config = config
        self.visual_tokenizer = visual_tokenizer
        self.mm_decoder = mm_decoder
        self.text_decoder = text_decoder
        self.image_decoder = image_decoder
        self.soi_token = nn.Parameter(torch.zeros(1, width))
        self.context_feat_proj = nn.Linear(width, width)
        self.register_buffer("context_positions", sincos_1d(torch.arange(config.language.max_positions), width), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.soi_token.device

    @property
    def dtype(self) -> torch.dtype:
        """Their precision."""
        return self.soi_token.dtype

    def checkpoint_activations(self) -> None:
        """Compute activations of encoder, language model and image head again for their gradients: less memory, more time."""
        self.visual_tokenizer.encoder.checkpoint_activations()
        self.mm_decoder.recompute = True
        self.image_decoder.checkpoint_activations()

    def forward(
        self, batch: InterleavedBatch, layout: Layout | None = None, *, text_weight: float | None = None, image_weight: float | None = None
    ) -> MMInterleavedOutput:
        """Losses of one step. The weights are the configuration's where absent; with image weight 0 the image head does not run.

        `layout` is `plan(batch, config)` made before the batch went to an accelerator; without it the indices are computed here.
        Raises ValueError when placeholders and images disagree.
        """
        text_weight = self.config.text_loss_weight if text_weight is None else text_weight
        image_weight = self.config.image_loss_weight if image_weight is None else image_weight
        if not len(batch.images):
            batch = batch.with_blank_image(self.config.shape)
        layout = plan(batch, self.config) if layout is None else layout
        features = self.visual_tokenizer(batch.images)
        hidden = self.hidden_states(batch.text_ids, features, layout)
        flat = hidden.flatten(0, 1)
        logits = self.text_decoder(flat.index_select(0, layout.predict))
        text = text_losses(logits, layout.target)
        image = self.image_losses(batch, features, hidden, layout) if image_weight else (flat.new_zeros(0), flat.new_zeros(()))
        output = joint_loss(text, *image, text_weight, image_weight, self.config.text_loss_mean, layout.target_weight)
        return output if self.training else output._replace(predicted=logits.argmax(-1))

    def embed(self, text_ids: Tensor, tokens: Tensor | None, is_image: Tensor, image_token: Tensor, is_boi: Tensor) -> Tensor:
        """Token embeddings [B, L, width]: placeholders take visual tokens [n, T, width] in order, BoI gets its own vector added."""
        embeddings = self.mm_decoder.embed_tokens(text_ids)
        if tokens is not None:
            visual = tokens.flatten(0, 1).index_select(0, image_token).view_as(embeddings)
            embeddings = torch.where(is_image.unsqueeze(-1), visual.to(embeddings.dtype), embeddings)
        return embeddings + is_boi.unsqueeze(-1) * self.soi_token

    def hidden_states(self, text_ids: Tensor, features: VisualFeatures, layout: Layout) -> Tensor:
        """The language model over packed rows, [B, L, width]."""
        embeddings = self.embed(text_ids, features.tokens, layout.is_image, layout.image_token, layout.is_boi)
        positions = torch.arange(text_ids.shape[1], device=text_ids.device).unsqueeze(0)
        return self.mm_decoder(embeddings, layout.attention, positions, self.project(features), layout.pairs)

    def project(self, features: VisualFeatures) -> list[Tensor | None]:
        """Per layer the values that MMFS samples, None where a layer has none."""
        return self.mm_decoder.project(self.looked_up(features, self.config.language.mmfs))

    def looked_up(self, features: VisualFeatures, sampler: SamplerConfig) -> Tensor:
        """What cross-attention reads of images, [n, cells, value_width]: the sampler's levels, or the visual tokens (`dense_resampler`)."""
        return features.tokens if self.config.cross_attention == "dense_resampler" else features.levels(sampler.levels)

    def context(self, hidden: Tensor, index: Tensor, mask: Tensor) -> Tensor:
        """Projected context [m, T, width] of images, BoI first; hidden [B, L, width], index [m, T] flat tokens, mask [m, T]."""
        projected = self.context_feat_proj(hidden).flatten(0, 1)
        gathered = projected.index_select(0, index.flatten()).view(*index.shape, -1)
        empty = self.context_feat_proj.bias.to(gathered.dtype)
        return torch.where(mask.unsqueeze(-1), gathered, empty) + self.context_positions[: index.shape[1]].to(gathered.dtype)

    def image_losses(self, batch: InterleavedBatch, features: VisualFeatures, hidden: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """The image head's errors of the decoded images [m], and the count their sum is divided by."""
        context = PictureContext(
            self.context(hidden, layout.context, layout.context_mask),
            layout.context_mask,
            self.looked_up(features.chosen(layout.looked_at), self.config.image_decoder.mmfs),
            layout.references,
            lambda: read_documents(self, batch, features, layout),
        )
        losses = self.image_decoder.losses(context, batch.picture_targets(layout.decoded))
        kept = layout.decode_weight.sum()
        released = self.config.image_loss_mean == "release"
        return losses * layout.decode_weight, kept.new_tensor(len(batch.images)) if released else kept

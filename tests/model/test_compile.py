"""`torch.compile` takes the MMFS path whole, forward and backward, in one graph for batches of all sizes. Needs no C++ compiler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from packed_rows import Document, MakeBatch
from torch import Tensor, nn

from kernels.testing import assert_close
from model.ablations import with_form
from model.batch import InterleavedBatch
from model.build import build_model
from model.config import ModelConfig
from model.mm_interleaved import MMInterleaved
from model.mmfs_net import References
from model.sequence import Pairs, plan

Call = Callable[..., Tensor]
FIRST: list[list[Document]] = [[[5, "image", 6, "image", 7, "image", "image"]], [[3, "image", 8, 9, "image"], [4]]]
THEN: list[list[Document]] = [[[5, "image", 6, 7, "image", "image"]], [["image", 9], [5, "image", 4, "image"]], [[5]]]


@pytest.fixture(autouse=True)
def _forget_graphs() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def batches(make_batch: MakeBatch) -> list[InterleavedBatch]:
    return [make_batch(FIRST, columns=41), make_batch(THEN, columns=50)]


def gradients(call: Call, module: nn.Module, arguments: tuple[object, ...]) -> tuple[Tensor, list[Tensor]]:
    """The output, and the gradients of all floating inputs and of the parameters that have one."""
    inputs = [each.requires_grad_() for each in arguments if isinstance(each, Tensor) and each.is_floating_point()]
    leaves = [*inputs, *(each for each in module.parameters() if each.requires_grad)]
    output = call(*arguments)
    found = torch.autograd.grad(output, leaves, torch.linspace(-1, 1, output.numel()).view_as(output), allow_unused=True)
    return output.detach(), [each for each in found if each is not None]


def check(call: Call, module: nn.Module, arguments: list[tuple[object, ...]], backend: str = "eager") -> None:
    """One graph for all arguments, nothing left outside of it, and the values of eager mode."""
    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend=backend)
    # Sizes that happen to be alike in the first call are not taken to be so for good.
    with torch._dynamo.config.patch(error_on_recompile=True), torch.fx.experimental._config.patch(use_duck_shape=False):
        for each in arguments:
            expected, wanted = gradients(call, module, each)
            output, found = gradients(compiled, module, each)
            assert_close(output, expected, "module", "output")
            assert len(found) == len(wanted)
            for number, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
                assert_close(ours, theirs, "module", f"gradient {number}")


def seen(model: MMInterleaved, batch: InterleavedBatch) -> Tensor:
    """Features of the batch's images for the language model."""
    cells = model.config.value_cells(model.config.language.mmfs)
    return torch.randn(len(batch.images), cells, model.config.value_width)


def test_mmfs_is_one_graph_forward_and_one_backward(config: ModelConfig, batches: list[InterleavedBatch]) -> None:
    model = build_model(config, seed=0)
    attention = model.mm_decoder.layers[0].llama_cross_attn

    def call(hidden: Tensor, features: Tensor, pairs: Pairs) -> Tensor:
        return attention(hidden, attention.project(features), pairs)

    arguments = [
        (torch.randn(*batch.text_ids.shape, config.language.width), seen(model, batch), plan(batch, config).pairs) for batch in batches
    ]
    check(call, attention, arguments, "aot_eager")


def test_a_decoder_layer_with_mmfs_is_one_graph(config: ModelConfig, batches: list[InterleavedBatch]) -> None:
    model = build_model(config, seed=0)
    decoder = model.mm_decoder
    layer = decoder.layers[0]

    def call(hidden: Tensor, features: Tensor, attention: Tensor, cosine: Tensor, sine: Tensor, pairs: Pairs) -> Tensor:
        return layer(hidden, attention, (cosine, sine), layer.llama_cross_attn.project(features), pairs, None)

    arguments = []
    for batch in batches:
        layout = plan(batch, model.config)
        hidden = torch.randn(*batch.text_ids.shape, model.config.language.width)
        rotary = decoder.rotary(hidden, torch.arange(hidden.shape[1])[None])
        arguments.append((hidden, seen(model, batch), layout.attention, *(each.detach() for each in rotary), layout.pairs))
    check(call, layer, arguments)


def test_a_block_of_the_image_decoder_is_one_graph(config: ModelConfig, batches: list[InterleavedBatch]) -> None:
    config = replace(with_form(config, "paper"), decoder_images="all", min_context_tokens=0)
    model = build_model(config, seed=0)
    net = model.image_decoder.decoder.mmfs_module
    assert net is not None
    block = net.mmfs_mid_block
    cells = config.value_cells(config.image_decoder.mmfs)

    def call(sample: Tensor, features: Tensor, rows: Tensor, pairs: Pairs) -> Tensor:
        return block(sample, References(rows, pairs, (), ()), block.project(features))

    arguments = []
    for batch in batches:
        layout = plan(batch, config)
        rows, query = layout.references.query.unique(return_inverse=True)
        sample = torch.randn(len(layout.decoded), block.conv.in_channels, *2 * [int(len(block.centres) ** 0.5)])
        features = torch.randn(len(layout.looked_at), cells, config.value_width)
        arguments.append((sample, features, rows, replace(layout.references, query=query)))
    check(call, block, arguments)

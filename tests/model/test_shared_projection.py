"""Values of many layers over one set of statistics: those of norm and projection, layer by layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from kernels.testing import relative_error
from model.config import SamplerConfig
from model.cross_attention import DenseAttention, build_cross_attention
from model.mmfs import MMFS
from model.shared_projection import Norm, project_shared

CONFIG = SamplerConfig(heads=2, points=3, inner=8, levels=(4, 2), table_rows=6, offset_init=2.0, train_sink=True)
Layer = tuple[Norm, MMFS | DenseAttention]


def layers(norm: type[nn.Module], kind: str, dtype: torch.dtype) -> list[Layer]:
    torch.manual_seed(0)
    made = [(norm(10, eps=1e-5), build_cross_attention(kind, 6, 10, CONFIG, 4)) for _ in range(3)]
    for each in made:
        for part in each:
            part.to(dtype)
            for parameter in part.parameters():
                nn.init.normal_(parameter)
    return made


@pytest.mark.parametrize("kind", ["deformable", "dense"])
@pytest.mark.parametrize("norm", [nn.LayerNorm, LlamaRMSNorm])
@pytest.mark.parametrize("images", [0, 3])
def test_values_and_every_gradient(norm: type[nn.Module], kind: str, images: int) -> None:
    every = layers(norm, kind, torch.float64)
    features = torch.randn(images, 20, 10, dtype=torch.float64, requires_grad=True)
    leaves = [features, *(parameter for own, look in every for parameter in (*own.parameters(), *look.values.parameters()))]

    def gradients(values: list[Tensor]) -> list[Tensor]:
        total = sum(((number + 1) * each.square().sum() for number, each in enumerate(values)), torch.zeros(()))
        return list(torch.autograd.grad(total, leaves))

    shared = project_shared(features, every)
    # The norm of transformers computes in float32 whatever it is given.
    apart = [look.project(reference(norm, own, features)) for own, look in every]
    for ours, wanted in zip([*shared, *gradients(shared)], [*apart, *gradients(apart)], strict=True):
        assert ours.shape == wanted.shape
        assert relative_error(ours, wanted) <= 1e-13
    assert all(each.is_contiguous() for each in shared)


def reference(kind: type[nn.Module], norm: nn.Module, features: Tensor) -> Tensor:
    if kind is nn.LayerNorm:
        return norm(features)
    return features / (features.square().mean(-1, keepdim=True) + norm.variance_epsilon).sqrt() * norm.weight


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("norm", [nn.LayerNorm, LlamaRMSNorm])
def test_types_stay(norm: type[nn.Module], dtype: torch.dtype) -> None:
    every = layers(norm, "deformable", dtype)
    features = torch.randn(2, 20, 10, dtype=dtype)
    limit = {torch.bfloat16: 2e-2, torch.float16: 2e-3, torch.float32: 5e-6}[dtype]
    for value, (own, look) in zip(project_shared(features, every), every, strict=True):
        assert value.dtype == dtype
        assert relative_error(value, look.project(own(features))) <= limit


@pytest.mark.parametrize("norm", [nn.LayerNorm, LlamaRMSNorm])
def test_one_normalised_copy_is_kept_for_all_gradients(norm: type[nn.Module]) -> None:
    features = torch.randn(2, 20, 10, requires_grad=True)
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.numel() == features.numel():
            kept[tensor.data_ptr()] = tensor
        return tensor

    def copies(number: int) -> int:
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            values = project_shared(features, layers(norm, "deformable", torch.float32)[:number])
        assert len(values) == number
        return len(kept)

    assert copies(3) == copies(1)


def test_no_layers_and_norms_that_differ() -> None:
    features = torch.randn(2, 20, 10)
    assert project_shared(features, []) == []
    mixed = [*layers(nn.LayerNorm, "deformable", torch.float32), *layers(LlamaRMSNorm, "deformable", torch.float32)]
    with pytest.raises(ValueError, match="norms of layers that share statistics differ"):
        project_shared(features, mixed)

"""The GPU's kernels: in Triton's interpreter and through its compiler on every machine, on a GPU where there is one."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest
import torch
from sampling_cases import LEVELS, NAMES, gradients, make
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from kernels.deformable_attention import Path, deformable_attention, gpu
from kernels.testing import assert_close

HERE = pathlib.Path(__file__).parent
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def in_a_process(file: str, **environment: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=5", str(HERE / file)]
    without = {name: text for name, text in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, cwd=HERE.parents[1], env=without | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d passed", done.stdout) and "skipped" not in done.stdout, done.stdout


@needs_triton
def test_in_the_interpreter() -> None:
    in_a_process("gpu_cases.py", TRITON_INTERPRET="1")


@needs_triton
def test_through_the_compiler() -> None:
    in_a_process("gpu_code.py")


@pytest.mark.gpu
@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
def test_on_the_device() -> None:
    in_a_process("gpu_cases.py")


def test_the_processors_tensors_are_refused_by_name() -> None:
    value, location, weight, image = make(shared=True)
    with pytest.raises(ValueError, match="path: triton is for tensors on a CUDA device, value is on cpu"):
        deformable_attention(value, LEVELS, location, weight, image, path="triton")


@needs_triton
@pytest.mark.parametrize("path", ["triton", "auto"])
def test_registered_for_the_device(path: Path) -> None:
    """Tensors without memory stand for a device that is not there."""
    real = make(shared=True, dtype=torch.bfloat16)
    with FakeTensorMode():
        arguments = [torch.empty(each.shape, dtype=each.dtype, device="cuda") for each in real]
        graph = make_fx(lambda v, x, w, i: deformable_attention(v, LEVELS, x, w, i, path=path))(*arguments)
        output = deformable_attention(arguments[0], LEVELS, *arguments[1:], path=path)
    assert "mmfs.deformable_attention.default" in [str(node.target) for node in graph.graph.nodes]
    assert output.is_cuda and output.shape == (17, 3, 5) and output.dtype == torch.bfloat16


def test_without_triton_there_is_one_line(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for name in [each for each in sys.modules if each.startswith("kernels.deformable_attention.gpu.")]:
        monkeypatch.delitem(sys.modules, name)
        monkeypatch.delattr(gpu, name.rpartition(".")[2], raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    gpu.is_imported.cache_clear()
    try:
        assert not gpu.available() and not gpu.available()
    finally:
        gpu.is_imported.cache_clear()
    assert caplog.text.count("the GPU's kernels are not used: import of triton") == 1


class Sampler(nn.Module):
    def forward(self, value: Tensor, location: Tensor, weight: Tensor, image: Tensor) -> Tensor:
        return deformable_attention(value, LEVELS, location, weight, image, path="triton")


@pytest.mark.gpu
@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
class TestOnTheDevice:
    def make(self, queries: int = 600, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        return [each.cuda() for each in make(queries, 8, 64, 4, shared=True, dtype=dtype)]

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_same_bits_twenty_times(self, dtype: torch.dtype) -> None:
        arguments = self.make(dtype=dtype)
        first = gradients("triton", *arguments)
        for _ in range(19):
            assert all(torch.equal(a, b) for a, b in zip(first, gradients("triton", *arguments), strict=True))

    def test_auto_takes_the_kernels(self) -> None:
        arguments = self.make()
        assert all(torch.equal(a, b) for a, b in zip(gradients("auto", *arguments), gradients("triton", *arguments), strict=True))

    def test_gradcheck(self) -> None:
        value, location, weight, image = (each.cuda() for each in make(3, 2, 2, 2, shared=False))
        inputs = [tensor.requires_grad_() for tensor in (value, location, weight)]
        assert torch.autograd.gradcheck(lambda v, x, w: deformable_attention(v, LEVELS, x, w, image, path="triton"), inputs)

    def test_registration(self) -> None:
        value, location, weight, image = self.make(5)
        inputs = [each.requires_grad_() for each in (value, location.unsqueeze(2).detach(), weight)]
        shapes = [size for shape in LEVELS for size in shape]
        deformable_attention(value, LEVELS, location, weight, image, path="triton")
        torch.library.opcheck(torch.ops.mmfs.deformable_attention.default, (inputs[0], shapes, *inputs[1:], image))

    def test_in_a_cuda_graph(self) -> None:
        arguments = self.make()
        inputs = [tensor.clone().requires_grad_() for tensor in arguments[:3]]

        def step() -> list[Tensor]:
            output = deformable_attention(inputs[0], LEVELS, inputs[1], inputs[2], arguments[3], path="triton")
            return [output.detach(), *torch.autograd.grad(output.square().sum(), inputs)]

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step()
        with torch.no_grad():
            inputs[0].mul_(2)
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(captured, step(), strict=True))

    def test_compiled_in_one_graph(self) -> None:
        arguments = self.make()
        compiled = torch.compile(Sampler(), fullgraph=True)
        inputs = [tensor.clone().requires_grad_() for tensor in arguments[:3]]
        output = compiled(*inputs, arguments[3])
        seed = torch.randint(-4, 5, output.shape, generator=torch.Generator().manual_seed(1)).to(output)
        found = [output.detach(), *torch.autograd.grad(output, inputs, seed)]
        for name, ours, expected in zip(NAMES, found, gradients("naive", *arguments), strict=True):
            assert_close(ours, expected, "op", name)

    def test_devices_must_agree(self) -> None:
        value, location, weight, image = self.make()
        with pytest.raises(ValueError, match="weight is on cpu"):
            deformable_attention(value, LEVELS, location, weight.cpu(), image, path="triton")

    def test_rows_beyond_31_bits(self) -> None:
        images = 2**31 // 30 + 2
        value = torch.zeros(images, 30, 1, 1, dtype=torch.float16, device="cuda")
        value[-1] = torch.arange(30.0)[:, None, None]
        location, weight = torch.tensor([[[[0.5, 0.5]]]]).cuda(), torch.tensor([[[[0.0], [1.0], [0.0]]]]).cuda()
        output = deformable_attention(value, LEVELS, location, weight, torch.tensor([images - 1]).cuda(), path="triton")
        expected = deformable_attention(value[-1:].float(), LEVELS, location, weight, torch.tensor([0]).cuda(), path="naive")
        assert output.item() == expected.item() > 0

"""The GPU's kernels through Triton's compiler, without a GPU: what the interpreter lets pass must be legal on the device, and the case
that is meant to be fast must come out as it was meant. test_gpu.py runs this file in a process of its own.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from kernels.deformable_attention.gpu import backward, forward

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
KERNELS = {"forward_kernel", "sample_gradients_kernel", "locate_kernel", "share_kernel", "chunk_kernel", "rows_kernel"}


class Device:
    """As much of a device as the compiler asks for."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Kernels by name, as every launch leaves them; nothing runs."""
    found: dict[str, Any] = {}

    def getitem(kernel: JITFunction, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, **options: Any) -> None:
            found[kernel.fn.__name__] = kernel.warmup(*arguments, grid=grid, **options)

        return launch

    monkeypatch.setattr(JITFunction, "__getitem__", getitem)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    return found


def launch(capability: int, dtype: torch.dtype, channels: int, shared: bool, and_backward: bool) -> None:
    """Every kernel once at the language model's pyramid of 1344 cells; the backward ones only if asked for."""
    driver.set_active(Device(capability))
    value = torch.zeros(2, 1344, 16, channels, dtype=dtype)
    location = torch.zeros(20, 16, 1 if shared else 3, 8, 2, dtype=dtype)
    weight = torch.zeros(20, 16, 3, 8, dtype=dtype)
    arguments = (value, [32, 32, 16, 16, 8, 8], location, weight, torch.zeros(20, dtype=torch.int64))
    gradient = forward.sample(*arguments)
    if and_backward:
        backward.gradients(gradient, *arguments, wanted=[True] * 3)


def instructions(kernel: Any, file: Path) -> list[str]:
    file.write_bytes(kernel.asm["cubin"])
    listing = subprocess.run([TOOLS / "cuobjdump", "-sass", file], capture_output=True, text=True, check=True).stdout
    return re.findall(r"^\s+/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\d+ )?([A-Z0-9_.]+)", listing, flags=re.MULTILINE)


def test_the_fast_case_on_hopper(compiled: dict[str, Any], tmp_path: Path) -> None:
    launch(90, torch.bfloat16, 64, shared=True, and_backward=True)
    assert set(compiled) == KERNELS
    listings = {name: instructions(kernel, tmp_path / name) for name, kernel in compiled.items()}
    spilled = {name: listing.count("STL") for name, listing in listings.items() if any(each.startswith("STL") for each in listing)}
    assert not spilled, "registers went to memory"
    # Three levels of four corners, each in two loads of 16 bytes; and all of L1 is left to them.
    assert listings["forward_kernel"].count("LDG.E.128") == 24 and compiled["forward_kernel"].metadata.shared == 0
    assert listings["sample_gradients_kernel"].count("LDG.E.128") == 24 + 2
    assert not [name for name, listing in listings.items() if any(each.startswith(("RED", "ATOM")) for each in listing)], "atomics"


def test_odd_sizes_on_ampere(compiled: dict[str, Any]) -> None:
    launch(80, torch.float32, 37, shared=False, and_backward=False)
    assert set(compiled) == {"forward_kernel"}

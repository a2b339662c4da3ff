"""How the C++ operator is made, kept and done without; the compilers here are scripts, so that each test is instant."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sampling_cases import LEVELS, make

from kernels import build
from kernels.deformable_attention import deformable_attention
from kernels.deformable_attention.cpu import library
from kernels.testing import assert_close


def compiler(folder: Path, script: str) -> str:
    """A program that is called like a compiler; its last argument is the file to write."""
    program = folder / "compiler"
    program.write_text(f'#!/bin/sh\necho called >> "{folder}/calls"\nfor target; do :; done\n{script}\n', encoding="utf-8")
    program.chmod(0o755)
    return str(program)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "PREBUILT", tmp_path / "no wheel")
    return build.cache_folder()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (None, "no C\\+\\+ compiler"),
        ("echo 'op.cpp:1: error: old' >&2; exit 1", "error: old"),
        ("echo rubbish > $target", "invalid ELF|too short"),
    ],
)
def test_falls_back_with_one_line(
    script: str | None, reason: str, empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if script is None:
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        monkeypatch.setenv("CXX", compiler(tmp_path, script))
    library.load.cache_clear()
    value, location, weight, image = make(shared=True)
    try:
        with caplog.at_level(logging.WARNING):
            outputs = [deformable_attention(value, LEVELS, location, weight, image, path="cpp") for _ in range(3)]
    finally:
        library.load.cache_clear()
    assert len(caplog.records) == 1
    assert re.search(reason, caplog.text)
    assert_close(outputs[-1], deformable_attention(value, LEVELS, location, weight, image, path="naive"), "op")


def test_auto_never_compiles(empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, "exit 1"))
    library.load.cache_clear()
    try:
        deformable_attention(*(lambda v, x, w, i: (v, LEVELS, x, w, i))(*make(shared=True)), path="auto")
    finally:
        library.load.cache_clear()
    assert not (tmp_path / "calls").exists() and not empty_cache.exists()


def test_two_processes_compile_once(empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, "sleep 1; echo made > $target"))
    command = [sys.executable, "-m", "kernels.build"]
    root = Path(build.__file__).parents[1]
    started = [subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    named = {process.communicate()[0] for process in started}
    assert [process.returncode for process in started] == [0, 0]
    assert (tmp_path / "calls").read_text().count("called") == 1
    assert len(named) == 1 and Path(named.pop().strip()).read_text() == "made\n"
    assert sorted(each.name for each in empty_cache.iterdir()) == [".lock", build.file_name(build.capability())]


def test_a_cache_others_can_write_is_refused(empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, "echo made > $target"))
    made = build.find_or_build()
    assert build.find() == made
    empty_cache.chmod(0o777)
    with pytest.raises(build.BuildError, match="changed by other users"):
        build.find()


def test_a_cache_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, "exit 0"))
    (tmp_path / "file").touch()
    with pytest.raises(build.BuildError, match="XDG_CACHE_HOME"):
        build.build(tmp_path / "file" / "cache", "DEFAULT")


def test_the_name_tells_torch_flags_and_instructions_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {build.file_name(name) for name in build.INSTRUCTIONS}
    monkeypatch.setattr(torch, "__version__", "0.0")
    names.add(build.file_name("AVX2"))
    monkeypatch.setattr(build, "FLAGS", ("-O0",))
    names.add(build.file_name("AVX2"))
    assert len(names) == 5

"""One small model and batches for it, shared by the tests that only read them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from packed_rows import VOCABULARY, Document, MakeBatch, as_if_trained, pack, with_random_start

from model.batch import InterleavedBatch
from model.build import build_model
from model.config import ModelConfig
from model.mm_interleaved import MMInterleaved
from model.presets import preset


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The C++ operator is compiled once for all tests, into a cache of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def config() -> ModelConfig:
    return preset("smoke", vocab_size=VOCABULARY)


@pytest.fixture(scope="session")
def network(config: ModelConfig) -> MMInterleaved:
    return as_if_trained(build_model(config, seed=0)).eval()


@pytest.fixture(scope="session")
def talkative(config: ModelConfig) -> MMInterleaved:
    """A model that likes to begin pictures and to end."""
    model = as_if_trained(build_model(with_random_start(config), seed=1)).eval()
    with torch.no_grad():
        model.text_decoder.head.bias[config.tokens.boi] = 2.0
        model.text_decoder.head.bias[config.tokens.eos] = 1.0
    return model


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    folder = os.environ.get("MMFS_GOLDEN_DIR")
    if not folder:
        pytest.skip("MMFS_GOLDEN_DIR does not name the folder of the official reference tensors")
    return Path(folder)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Reference data small enough for the repository."""
    return Path(__file__).parents[1] / "data"


@pytest.fixture(scope="session")
def make_batch(config: ModelConfig) -> MakeBatch:
    """make_batch([[document, ...], ...], columns, seed): see packed_rows."""

    def make(rows: list[list[Document]], columns: int = 40, seed: int = 0) -> InterleavedBatch:
        return pack(config, rows, columns, seed)

    return make

"""Our wrapper is the library's model, family by family, where no layer looks at images."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import AutoModel

from kernels.testing import assert_close
from model.config import ModelConfig
from model.language_families import FAMILIES
from model.llama_mmfs import LlamaMMFS
from model.sequence import Pairs


@pytest.mark.parametrize("name", FAMILIES)
def test_hidden_states_are_the_librarys(config: ModelConfig, name: str) -> None:
    torch.manual_seed(0)
    language = replace(config.language, family=name, kv_heads=2, head_width=24)
    settings = FAMILIES[name].settings(language, 40)
    theirs = AutoModel.from_config(settings).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    ours = LlamaMMFS(language, 40, config.value_width, "off").eval()
    ours.load_state_dict(theirs.state_dict())
    ids = torch.randint(40, (2, 9))
    causal = torch.ones(9, 9, dtype=torch.bool).tril().expand(2, 1, 9, 9)
    nobody = Pairs(*(torch.zeros(0, dtype=torch.int64) for _ in range(3)))
    with torch.no_grad():
        hidden = ours(ours.embed_tokens(ids), causal, torch.arange(9)[None], [None] * language.layers, nobody)
        expected = theirs(ids).last_hidden_state
    assert_close(hidden, expected, "model")

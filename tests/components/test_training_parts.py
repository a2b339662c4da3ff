"""What a rank is given to train on belongs together, and what does not is bad data."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from training_world import World, train_params

from components.data.documents import CorpusError
from components.data.tokenizer import Tokenizer, fit
from components.run.failures import FailureClass, StageError
from components.training.diagnose import diagnose
from components.training.parts import mm_interleaved
from model.batch import InputError, InterleavedBatch
from model.presets import preset
from model.sequence import plan


def test_a_model_for_another_vocabulary_is_named_before_any_step(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(fit(["a 3 is drawn northwest"] * 9, 300), encoding="utf-8")
    job = World(tmp_path, train_params(), {}).job().model_copy(update={"model": preset("smoke", vocab_size=999).to_dict()})
    with pytest.raises(CorpusError, match=r"the tokenizer has \d+ entries, the model to train was made for 999; use the tokenizer.json"):
        mm_interleaved(job)


def test_a_batch_that_cannot_be_trained_on_is_bad_data() -> None:
    config = preset("smoke", vocab_size=40)
    blank = torch.zeros(1, 8, dtype=torch.int64)
    nothing = torch.zeros(0)
    batch = InterleavedBatch(
        text_ids=blank,
        attention_mask=blank > 0,
        document_ids=blank,
        targets_mask=blank > 0,
        images=nothing,
        target_images=nothing,
        image_row=nothing,
        image_column=nothing,
        image_loss_mask=nothing,
        drop_condition=nothing,
        timesteps_u=nothing,
        noise=nothing,
    ).with_blank_image(config.shape)
    with pytest.raises(InputError, match=r"images: picture 0 \(row 0, column 7\) has NaN") as caught:
        plan(replace(batch, images=batch.images.fill_(math.nan)), config)
    problem = diagnose(caught.value)
    assert problem.failure is FailureClass.BAD_DATA
    assert "picture 0" in problem.message


@pytest.mark.parametrize("cross_attention", ["deformable", "off"])
def test_a_misspelt_pattern_of_a_later_stage_is_named_before_any_step(
    tmp_path: Path, cross_attention: Literal["deformable", "off"]
) -> None:
    patterns = {"pretrain.groups": ("llama_cross_attn.gate",), "finetune.vqa.freeze": ("image_decodr",)}
    config = preset("smoke", vocab_size=40, cross_attention=cross_attention)
    job = World(tmp_path, train_params(), {}).job().model_copy(update={"model": config.to_dict(), "patterns": patterns})
    with pytest.raises(StageError, match=r"finetune\.vqa\.freeze: no parameter's name contains 'image_decodr'"):
        mm_interleaved(job)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (None, "does not say where its data stood; start the training again"),
        ({"version": 1}, "data cursor has version 1: its order of training"),
    ],
)
def test_a_checkpoint_of_another_order_is_refused(tmp_path: Path, data: dict[str, int] | None, told: str) -> None:
    text = fit(["a 3 is drawn northwest"] * 9, 300)
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    (tmp_path / "cursor.json").write_text(json.dumps({"step": 2, "meter": {}} | ({} if data is None else {"data": data})), encoding="utf-8")
    config = preset("smoke", vocab_size=Tokenizer(text).vocab_size)
    job = World(tmp_path, train_params(), {}).job().model_copy(update={"model": config.to_dict(), "resume": tmp_path, "patterns": {}})
    with pytest.raises(CorpusError, match=told):
        mm_interleaved(job)

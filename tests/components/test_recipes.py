"""The overlays against the paper: Tables 11 to 15 of arXiv 2401.10208, row by row, and what the released code has instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.accumulation import accumulation
from components.architecture import architecture, stage_architecture
from components.data.course import Course
from components.data.documents import Document, ImageItem, TextItem
from components.data.sources.formats import FORMATS
from components.data.stories import joint
from components.mixing import is_drawn
from components.params import Params, ParamsError, parse
from components.run.parameters import merged
from components.training.optimizer import schedule
from components.training.recipe import StagePlan, stage_plans
from model.presets import preset

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = sorted(path.stem for path in (ROOT / "params").glob("*.yaml"))
VQA_SETS = "llava coco_captions vqav2 chartqa docvqa estvqa infovqa stvqa textcaps llavar ocrvqa dvqa"

# Columns: Table 11 (pretraining), 12 (VQA and captions), 13 (referring expressions), 14 (ADE20K), 15 (stories; VIST for the three sets).
# None: a dash, or no such row. Learning rates are (language model, image decoder, others). Table 11 gives the batch of a GPU, 2,2,4;
# its global one follows from 11 billion tokens in 15,000 steps of 2048 (section 3: 358 rows).
TABLES: dict[str, tuple[Any, ...]] = {
    "stage": ("pretrain", "vqa", "grounding", "segmentation", "story"),
    "input px": (224, 448, 224, 224, 224),
    "output px": (512, None, None, 512, 512),
    "learning rates": ((None, 1e-5, 1e-4), (1e-6, None, 1e-5), (None, None, 2e-5), (None, 1e-5, 1e-4), (None, 1e-4, 1e-5)),
    "weight decay": (0.05, 0.05, 0.05, 0.05, 0.05),
    "warm-up": (1000, 500, 500, 100, 200),
    "iterations": (15_000, 10_000, 10_000, 4_000, 4_000),
    "betas": ((0.9, 0.995), (0.9, 0.999), (0.9, 0.999), (0.9, 0.98), (0.9, 0.98)),
    "epsilon": (1e-6, 1e-8, 1e-8, 1e-5, 1e-8),
    "augmentation": ("center_crop", "resize", "flip", "flip", "center_crop"),
    "batch": (358, 256, 256, 512, 128),
    "context": (2048, None, None, None, None),
    "data": ("mmc4 laion_2b laion_coco cc12m objects365", VQA_SETS, "refcoco refcoco_plus refcocog", "ade20k", "vist"),
}
STAGES = list(zip(*TABLES.values(), strict=True))


@pytest.fixture(scope="module")
def paper() -> Params:
    return params("paper_13b")


@pytest.fixture(scope="module")
def plans(paper: Params) -> dict[str, StagePlan]:
    return {plan.stage: plan for plan in stage_plans(paper)}


def params(name: str, *overrides: str) -> Params:
    return parse(merged(ROOT, name, overrides))


def rate(plan: StagePlan, part: str) -> float | None:
    """Learning rate of the group of a pattern; of those that none claims where it has no group."""
    found = {group.name.rsplit("/", 1)[0]: group.learning_rate for group in plan.groups}
    return found.get(part, found["rest"])


@pytest.mark.parametrize("row", STAGES, ids=TABLES["stage"])
def test_every_row_of_the_papers_tables(row: tuple[Any, ...], paper: Params, plans: dict[str, StagePlan]) -> None:
    table = dict(zip(TABLES, row, strict=True))
    plan, train = plans[table["stage"]], paper.training(table["stage"])
    assert plan.image_px == table["input px"]
    assert (plan.output_px if plan.image_loss_weight else None) == table["output px"]
    language, decoder, others = table["learning rates"]
    assert rate(plan, "rest") == pytest.approx(others)
    assert rate(plan, "llama_cross_attn") == pytest.approx(others)
    assert ("mm_decoder" in {group.name.rsplit("/", 1)[0] for group in plan.groups}) == (language is not None)
    if language is not None:
        assert rate(plan, "mm_decoder") == rate(plan, "text_decoder.head.") == pytest.approx(language)
    if decoder is not None:
        assert rate(plan, "image_decoder") == pytest.approx(decoder)
    assert {group.weight_decay for group in plan.groups if group.name.endswith("/decay")} == {table["weight decay"]}
    assert (train.steps, train.warmup_steps) == (table["iterations"], table["warm-up"])
    assert (train.betas, train.eps, train.augmentation) == (table["betas"], table["epsilon"], table["augmentation"])
    factor = schedule(train)  # "cosine"
    assert factor(train.warmup_steps) == 1
    assert factor((train.warmup_steps + train.steps) // 2) == pytest.approx(0.5)
    assert factor(train.steps) == pytest.approx(0)
    assert plan.global_batch == pytest.approx(table["batch"], rel=0.01)
    assert table["context"] in (None, train.row_tokens)
    assert set(plan.mixture) == set(table["data"].split())


def test_the_rest_of_table_11(paper: Params, plans: dict[str, StagePlan]) -> None:
    """Frozen parts, λ, cross-attention every 4 layers, levels 2 to 4, the volume of section 3, MMC4 twice as often (section 3.1)."""
    plan, config = plans["pretrain"], architecture(paper.model, paper.data.vocabulary_size)
    assert (plan.text_loss_weight, plan.image_loss_weight) == (1, 10)
    assert config.language.cross_frequency == 4
    assert config.language.mmfs.levels == config.vision.pyramid[1:]
    assert paper.pretrain.rows_per_device == 2 + 2 + 4
    assert round(plan.token_budget / 1e9) == 11
    assert plan.mixture["mmc4"] == 2
    assert {weight for name, weight in plan.mixture.items() if name != "mmc4"} == {1}
    assert plan.frozen["mm_decoder.embed_tokens"] == 32002 * 5120
    assert plan.frozen["vision_model.encoder."] == 302_309_376
    assert not any("adapter" in pattern for pattern in paper.pretrain.freeze)


def test_what_the_release_has_instead() -> None:
    """Groups of its YAML, fp16 and ZeRO 1; its published count of trained parameters is 1.47 billion."""
    release = params("release_13b", "tasks=[story]")
    plan = stage_plans(release)[0]
    found = {group.name: (group.learning_rate, group.weight_decay) for group in plan.groups}
    assert found["llama_cross_attn.gate/no_decay"][0] == pytest.approx(1e-4)
    assert found["sampling_offsets/decay"] == (pytest.approx(1e-5), 0)
    assert found["llama_cross_attn/decay"] == (pytest.approx(1e-4), 0.05)
    assert found["image_decoder.decoder.unet/decay"] == (pytest.approx(1e-5), 0.05)
    assert found["rest/decay"] == (pytest.approx(1e-4), 0.05)
    assert plan.trainable == pytest.approx(1.47e9, rel=0.005)
    assert (release.pretrain.precision, release.pretrain.zero_stage, release.seed) == ("16-mixed", 1, 32)
    assert release.finetune == params("paper_13b").finetune


def test_the_ablations_setting() -> None:
    """Section 4.3: 10,000 steps, 80 GPUs with 2, 2 and 4 rows each."""
    train = params("ablation_3b").pretrain
    assert (train.steps, train.rows_per_step, train.rows_per_device) == (10_000, 80 * 8, 8)
    assert [train.mixture[name] for name in ("laion_coco", "laion_2b", "mmc4", "cc12m", "objects365")] == [1, 1, 2, 0, 0]
    one = params("one_gpu_80")
    for stage in one.training_stages:
        here, there = one.training(stage), params("ablation_3b").training(stage)
        share = {"ranks": here.ranks, "rows_per_device": here.rows_per_device}
        assert here == there.model_copy(update=share)


@pytest.mark.parametrize(("name", "sinks"), [("full_3b", 13 * 1024), ("full_13b", 0)])
def test_full_training_freezes_the_autoencoder_and_the_decoders_sinks_alone(name: str, sinks: int) -> None:
    """The release keeps the sinks of the UNet's MMFS at zero; the paper's form has none."""
    plan = stage_plans(params(name, "tasks=[story]"))[0]
    frozen = 83_653_863 + sinks
    assert plan.frozen == {"always": frozen}
    assert plan.trainable == plan.parameters - frozen


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_is_its_preset_and_names_what_is_there(name: str) -> None:
    found = params(name)
    tokens = {"pad_id": 0, "bos_id": 1, "eos_id": 2}
    assert architecture(found.model, 32000) == preset(found.model.preset, vocab_size=32000, **tokens)
    assert {corpus.format for corpus in found.data.corpora} <= FORMATS.keys()


def test_the_image_side_of_a_stage_reaches_its_model_alone(paper: Params) -> None:
    config = architecture(paper.model, 32000)
    assert stage_architecture(paper, "grounding", config) == config
    assert stage_architecture(paper, "vqa", config).language.mmfs.levels == tuple(2 * side for side in config.language.mmfs.levels)
    with pytest.raises(ParamsError, match=r"finetune\.vqa\.image_px: .*its visual tokens are cells of the picture"):
        merged(ROOT, None, ["finetune.vqa.image_px=64"])


@pytest.mark.parametrize(("rows", "ranks", "most", "parts"), [(360, 8, 8, 9), (256, 8, 8, 4), (256, 64, 8, 1), (7, 1, 3, 7), (8, 2, 4, 1)])
def test_micro_batches_are_the_fewest_equal_ones(rows: int, ranks: int, most: int, parts: int) -> None:
    assert accumulation(rows, ranks, most) == parts


def test_a_batch_that_cannot_be_dealt_names_the_nearest() -> None:
    with pytest.raises(
        ParamsError, match=r"pretrain: rows_per_step \(360\) does not divide by ranks \(64\); the nearest that does is 320 or 384"
    ):
        params("paper_13b", "pretrain.ranks=64")
    assert params("paper_13b", "pretrain.ranks=64", "pretrain.rows_per_step=384").pretrain.micro_batches(64) == 1
    with pytest.raises(ParamsError, match="needs rows_per_device"):
        params("small", "pretrain.accumulate=auto")
    with pytest.raises(ParamsError, match="accumulate 1 gives a device 45 rows at once, rows_per_device is 8"):
        params("paper_13b", "pretrain.accumulate=1")


def test_an_overlay_builds_on_another_and_not_on_itself(tmp_path: Path) -> None:
    (tmp_path / "params").mkdir()
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    for name, text in {
        "a": "base: b\nseed: 5",
        "b": "seed: 4\npretrain: {steps: 99}",
        "c": "base: d",
        "d": "base: c",
        "e": "base: 3",
    }.items():
        (tmp_path / "params" / f"{name}.yaml").write_text(text)
    found = merged(tmp_path, "a")
    assert (found["seed"], found["pretrain"]["steps"], "base" in found) == (5, 99, False)
    for name in ("c", "e"):
        with pytest.raises(ParamsError, match="name another overlay that does not build on this one"):
            merged(tmp_path, name)


def test_of_a_joint_story_all_is_trained_but_the_beginning() -> None:
    items = [
        TextItem(text="a", loss=False),
        ImageItem(id="0", path="0.png"),
        TextItem(text="b", loss=False),
        ImageItem(id="1", path="1.png"),
    ]
    values: dict[str, Any] = {"id": "s", "source": "s", "split": "train", "licence": "x", "origin": "human", "items": items}
    assert [item.loss for item in joint(Document(kind="story", **values)).items] == [False, False, True, True]
    style = Document(kind="style", **values)
    assert joint(style) is style


def test_the_orders_of_documents_differ_in_nothing_else() -> None:
    first, staged, fixed, competence = (params(name) for name in ("interleaved", "staged", "progressive_fixed", "progressive"))
    steps = np.arange(first.pretrain.steps) + 0.5
    shares = []
    for one in (first, staged):
        weights = {name: Course(weight).at(steps) for name, weight in one.pretrain.mixture.items() if is_drawn(weight)}
        total = sum(weights.values())
        shares.append({name: float((own / total).mean()) for name, own in weights.items()})
    assert shares[1] == pytest.approx(shares[0]), "as many rows of each kind in the end"
    assert shares[0] == pytest.approx(
        {"question": 0.5, "referring": 0.125, "caption": 0.125, "segmentation": 1 / 16, "decompose": 1 / 16, "story": 0.125}
    )
    for other in (staged, fixed, competence):
        own, asked = other.model_dump(), first.model_dump()
        for values in (own, asked):
            del values["pretrain"]["mixture" if other is staged else "progression"]
        assert own == asked
    assert fixed.pretrain.progression.levels == competence.pretrain.progression.levels
    assert fixed.pretrain.progression.moves == ((48, 1), (96, 2))
    assert first.pretrain.progression.mode == "none"

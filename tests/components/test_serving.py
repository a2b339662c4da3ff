"""A model answers texts and pictures with texts and pictures, as MLflow loads it and as the command shows it."""

from __future__ import annotations

import base64
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from components.data.documents import CorpusError
from components.data.tokenizer import Tokenizer, fit
from components.serving.client import Answer, ask
from components.serving.generator import Generator
from components.serving.items import Options, Prompt, PromptError, dump, load
from components.settings import Settings
from components.tracking.logged_model import upload
from components.tracking.mlflow_run import connect, open_run
from components.tracking.weights import describe_weights
from model.build import build_model, save_model
from model.presets import preset

TEXTS = ["a 3 is drawn northwest", "then a 7 comes", "what digit is northwest? 7"]
FEW = Options(max_new_tokens=6, steps=2)


def picture(seed: int = 0) -> bytes:
    written = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8)).save(written, "PNG")
    return written.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained weights of the smallest size; what they say is no matter here."""
    made = tmp_path_factory.mktemp("weights")
    tokenizer = fit(TEXTS * 50, 300)
    (made / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    save_model(build_model(preset("smoke", vocab_size=Tokenizer(tokenizer).vocab_size), seed=0), made)
    return made


@pytest.mark.parametrize(
    ("text", "pictures", "items"),
    [
        ("a story :", [], ("a story :",)),
        ("{image} what digit ?", [b"1"], (b"1", "what digit ?")),
        ("first {image} then {image}", [b"1", b"2"], ("first", b"1", "then", b"2")),
        ("which differs ? {image}", [b"1", b"2", b"3"], (b"1", b"2", "which differs ?", b"3")),
        ("", [b"1"], (b"1",)),
    ],
)
def test_pictures_stand_where_the_text_says(text: str, pictures: list[bytes], items: tuple[str | bytes, ...]) -> None:
    assert Prompt.of(text, pictures).items == items


def test_unusable_prompts_are_refused() -> None:
    with pytest.raises(PromptError, match="empty"):
        Prompt.of("  ")
    with pytest.raises(PromptError, match="asks for 2 pictures, 1 were given"):
        Prompt.of("{image} {image}", [b"1"])
    with pytest.raises(PromptError, match="JSON list of base64"):
        Prompt.of_row({"prompt": "a", "images": "[1"})


WORDS = st.text(st.characters(categories=["L", "N", "P"], exclude_characters="{}"), min_size=1)


@given(st.lists(st.one_of(WORDS, st.binary(min_size=1)), min_size=1))
def test_requests_and_answers_survive_their_columns(items: list[str | bytes]) -> None:
    assert load(dump(items)) == tuple(items)
    apart = [item for number, item in enumerate(items) if not number or isinstance(item, bytes) or isinstance(items[number - 1], bytes)]
    prompt = Prompt(tuple(apart))
    assert Prompt.of_row(prompt.row()) == prompt


def test_generator_is_deterministic_and_refuses_bad_pictures(folder: Path) -> None:
    generator = Generator.load(folder)
    prompts = [Prompt.of("{image} what digit is northwest?", [picture()]), Prompt.of("a story :")]
    first = generator.answer(prompts, FEW)
    assert first == generator.answer(prompts, FEW)
    assert len(first) == 2
    with pytest.raises(PromptError, match="cannot be used"):
        generator.answer([Prompt.of("{image} what ?", [b"no picture"])], FEW)
    with pytest.raises(PromptError, match="token"):
        generator.answer([Prompt.of("7 " * 5000)], FEW)


def test_every_option_reaches_the_model(folder: Path) -> None:
    generator = Generator.load(folder)
    prompts = [Prompt.of("a story :")]
    drawn = [generator.answer(prompts, replace(FEW, temperature=1.5, top_p=0.9, seed=seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    searched = replace(FEW, beams=3, length_penalty=0.0, repetition_penalty=1.2, min_new_tokens=2)
    assert generator.answer(prompts, searched) == generator.answer([*prompts, Prompt.of("then a 7 comes")], searched)[:1]
    with pytest.raises(PromptError, match=r"top_p is 0\.0, it must be above 0"):
        generator.answer(prompts, replace(FEW, top_p=0.0))
    with pytest.raises(PromptError, match="steps is 0"):
        generator.answer(prompts, replace(FEW, steps=0))


def test_model_and_tokenizer_must_belong_together(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.json").write_text(fit(["abc def"] * 9, 300), encoding="utf-8")
    with pytest.raises(CorpusError, match=r"the tokenizer has \d+ entries, the model in .* was made for \d+; use the tokenizer.json"):
        Generator.load(tmp_path)


def test_published_model_answers_through_mlflow(folder: Path, store_uri: str, tmp_path: Path) -> None:
    settings = Settings(root=tmp_path, tracking_uri=store_uri)
    client = connect(settings)
    weights = describe_weights(folder)
    run = open_run(client, settings, "a-stage", {"mmfs.run_id": "20261121-000000-abcd"})
    model_id = upload(client, run, folder, weights)
    answer = ask(settings, f"models:/{model_id}", Prompt.of("{image} what digit is northwest?", [picture()]), FEW)
    assert answer.run_id == "20261121-000000-abcd"
    assert answer.digest == weights.model_digest
    assert answer.items == Generator.load(folder).answer([answer.prompt], FEW)[0]


def test_answer_is_shown_as_page_picture_text_and_json() -> None:
    items = ("then a 7 comes", picture(1), "then a 3 comes", picture(2))
    answer = Answer("models:/mmfs-story@champion", "d" * 64, "a-run", Prompt.of("a story :", [picture()]), items)
    page = answer.page().decode()
    assert page.count("data:image/png;base64,") == 3
    assert "then a 7 comes" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    with Image.open(io.BytesIO(answer.sheet())) as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 400
    assert answer.as_text() == "then a 7 comes [picture] then a 3 comes [picture]"
    told = json.loads(json.dumps(answer.as_json()))
    assert (told["run"], told["model"]) == ("a-run", "models:/mmfs-story@champion")
    assert base64.b64decode(told["items"][1]["png"]) == items[1]

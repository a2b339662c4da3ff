"""What a stage starts from: read, held to a digest, verified, compared with the model of the run, and loaded."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from registry_world import World
from safetensors.torch import load_file
from stage_world import ROOT, Tracking, smoke_values
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizerFast, CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from components import assembly
from components.adopt import adopt
from components.architecture import architecture
from components.data.tokenizer import Tokenizer, fit
from components.params import Params, ParamsError, merge, parse
from components.registry.package import RegistryError
from components.run.failures import FailureClass, StageError
from components.run.lineage import LineageRecord
from components.run.main import StageContext
from components.run.parameters import resolve
from components.run.paths import Paths
from components.run.work import WorkFolder
from components.settings import Settings
from components.start import Start
from components.start_pins import with_pins
from components.starts import Started, begin, check_starts
from components.tracking.weights import WeightsRecord, folder_digest
from model.build import build_model, load_into, save_model
from model.config import ModelConfig, load_config, save_config
from model.weights import WeightsError

DIGEST = "ab" * 32
TEXTS = ["a 3 is drawn northwest of a 7", "which digit is red?"] * 9


class Place:
    """A checkout with no more than a tokenizer in its index, and the parameters of a run in it."""

    def __init__(self, root: Path, **model: Any) -> None:
        self.root, self.paths, self.settings = root, Paths(root), Settings(root=root)
        self.paths.index.mkdir(parents=True)
        text = fit(TEXTS, 300)
        (self.paths.index / "tokenizer.json").write_text(text, encoding="utf-8")
        self.vocabulary = Tokenizer(text).vocab_size
        self.values = smoke_values()
        self.values = merge(self.values, {"model": model, "tasks": ["vqa"]})
        self.tracking = Tracking()
        work = WorkFolder(root / "work", root)
        work.body.mkdir(parents=True)
        context = SimpleNamespace(name="pretrain", work=work, tracking=self.tracking, settings=self.settings, device="cpu")
        self.context = cast(StageContext, context)

    @property
    def config(self) -> ModelConfig:
        return architecture(parse(self.values).model, self.vocabulary)

    def params(self, init: str, **pretrain: Any) -> Params:
        """With the start held to what lies there."""
        return parse(with_pins(merge(self.values, {"pretrain": {"init_from": init, **pretrain}}), self.settings))

    def begin(self, params: Params) -> Any:
        return begin(params, "pretrain", self.paths, self.context, lambda: self.config)

    def weights(self, name: str = "start", config: ModelConfig | None = None, tokenizer: bool = False) -> Path:
        """A folder as `mmfs weights import` leaves it."""
        folder = self.root / name
        save_model(build_model(config or self.config, 7), folder)
        if tokenizer:
            shutil.copyfile(self.paths.index / "tokenizer.json", folder / "tokenizer.json")
        return folder


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "checkout")


@pytest.mark.parametrize(
    "text",
    [
        "scratch",
        "stage:pretrain",
        "weights:w/release",
        f"components:/x y#sha256:{DIGEST}",
        f"models:/mmfs-vqa/3#sha256:{DIGEST}",
        "models:/m@champion",
    ],
)
def test_a_start_is_written_as_it_is_read(text: str) -> None:
    assert str(Start.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "nothing", "stage:finetune", "weights:", "models:/mmfs-vqa", "scratch:", f"scratch#sha256:{DIGEST}", "models:/a/b@c"]
)
def test_what_names_no_start_is_refused_with_what_is_expected(text: str, place: Place) -> None:
    with pytest.raises(ParamsError, match=r"pretrain.*expected scratch, stage:pretrain, components:FOLDER"):
        parse(merge(place.values, {"pretrain": {"init_from": text}}))


def test_contradictions_name_the_key(place: Place) -> None:
    for section, told in (
        ({"pretrain": {"init_from": "stage:pretrain"}}, "pretrain.init_from is stage:pretrain, which is this stage itself"),
        ({"finetune": {"vqa": {"init_from": "scratch", "steps": 0}}}, "finetune.vqa.steps is 0, which takes the weights it starts from"),
    ):
        with pytest.raises(ParamsError, match=told):
            parse(merge(place.values, section))


def test_defaults_are_what_they_were(place: Place) -> None:
    params = parse(place.values)
    assert (str(params.start("pretrain")), str(params.start("vqa"))) == ("scratch", "stage:pretrain")
    assert with_pins(place.values, place.settings) == place.values
    assert "init_from" not in json.dumps(place.values), "a stage key knows only what stands in params.yaml"
    assert place.begin(params) == place.config.to_dict()


def test_weights_are_held_to_their_digest_and_loaded_into_the_model_of_the_run(place: Place) -> None:
    folder = place.weights()
    place.values = merge(place.values, {"model": {"visible_images": "nearest"}})  # what tensors do not depend on is the run's
    params = place.params("weights:start")
    assert params.start("pretrain").digest == folder_digest(folder)
    started = place.begin(params)
    assert started == Started(folder, place.config)
    assert place.tracking.tags == {"mmfs.init_from": f"weights:start#sha256:{folder_digest(folder)}"}
    network = load_into(started.config, started.weights)
    assert network.config.visible_images == "nearest"
    assert torch.equal(network.soi_token, load_file(folder / "model.safetensors")["soi_token"])

    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    assert place.params("weights:start") != params, "another folder is another run"
    with pytest.raises(StageError, match=r"pretrain\.init_from: .*start has the digest [0-9a-f]{12} now, this run starts from") as caught:
        place.begin(params)
    assert caught.value.failure is FailureClass.BAD_DATA
    shutil.rmtree(folder)
    with pytest.raises(StageError, match=r"start is gone, this run starts from what had"):
        place.begin(params)


def test_a_start_that_is_not_held_is_refused(place: Place) -> None:
    place.weights()
    with pytest.raises(StageError, match=r"pretrain\.init_from is weights:start, which is not held to a digest") as caught:
        place.begin(parse(merge(place.values, {"pretrain": {"init_from": "weights:start"}})))
    assert "mmfs weights pin" in caught.value.fix


def _other_shape(place: Place) -> Path:
    return place.weights(config=architecture(parse(merge(place.values, {"model": {"preset": "tiny"}})).model, place.vocabulary))


def _other_vocabulary(place: Place) -> Path:
    return place.weights(config=architecture(parse(place.values).model, place.vocabulary + 5))


def _other_tokenizer(place: Place) -> Path:
    folder = place.weights(tokenizer=True)
    (folder / "tokenizer.json").write_text(fit([*TEXTS, "another corpus"] * 9, 300))
    return folder


def _broken_config(place: Place) -> Path:
    folder = place.weights()
    (folder / "config.json").write_text("{")
    return folder


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            _other_shape,
            r"weights:start is another model: image_decoder\.resampler\.encoder_width is 96, params\.yaml says 64; .* and \d+ more",
        ),
        (_other_vocabulary, r"weights:start has \d+ entries in its vocabulary, the tokenizer of this corpus has"),
        (_other_tokenizer, r"weights:start was trained with another tokenizer"),
        (_broken_config, r"weights:start: .*config\.json is not JSON"),
    ],
)
def test_weights_that_do_not_fit_are_named_before_any_rank_starts(place: Place, make: Callable[[Place], Path], told: str) -> None:
    make(place)
    with pytest.raises(StageError, match=told):
        place.begin(place.params("weights:start"))


def test_tensors_that_belie_their_configuration_are_named(place: Place) -> None:
    folder = place.weights(config=architecture(parse(merge(place.values, {"model": {"preset": "tiny"}})).model, place.vocabulary))
    save_config(place.config, folder / "config.json")
    started = place.begin(place.params("weights:start"))
    with pytest.raises(WeightsError, match=r"tensors do not fit the configuration: .*the model has"):
        load_into(started.config, started.weights)


def test_a_folder_is_looked_at_before_anything_is_started(place: Place) -> None:
    values = merge(place.values, {"pretrain": {"init_from": "weights:nowhere"}})
    with pytest.raises(StageError, match=r"pretrain\.init_from: .*/nowhere is no folder"):
        check_starts(parse(values), place.root)
    (place.root / "empty").mkdir()
    with pytest.raises(StageError, match=r"empty has no vision, no language, no diffusion"):
        check_starts(parse(merge(values, {"pretrain": {"init_from": "components:empty"}})), place.root)
    _other_shape(place)
    with pytest.raises(StageError, match="is another model"):
        check_starts(parse(merge(values, {"pretrain": {"init_from": "weights:start"}})), place.root)


def test_an_alias_is_held_to_its_version_and_another_champion_is_another_run(store_uri: str, place: Place) -> None:
    world = World(store_uri, place.root)
    place.settings = Settings.model_validate({"root": place.root, "MLFLOW_TRACKING_URI": store_uri})
    for digest in (DIGEST, "cd" * 32):
        world.candidate(digest, 0.5)
    world.client.set_registered_model_alias("mmfs-vqa", "champion", "1")
    params = place.params("models:/mmfs-vqa@champion")
    assert params.pretrain.init_from == f"models:/mmfs-vqa/1#sha256:{DIGEST}"
    world.client.set_registered_model_alias("mmfs-vqa", "champion", "2")
    assert place.params("models:/mmfs-vqa@champion").pretrain.init_from == f"models:/mmfs-vqa/2#sha256:{'cd' * 32}"
    for unknown, told in (
        ("models:/mmfs-vqa@best", "no version with the alias 'best'"),
        ("models:/mmfs-vqa/9", "mmfs-vqa has no version 9"),
    ):
        with pytest.raises(RegistryError, match=told):
            place.params(unknown)
    with pytest.raises(StageError, match=f"could not be fetched|no model with the digest {DIGEST[:12]}|is damaged"):
        place.begin(params)  # its bytes were never published


def test_a_model_is_taken_by_its_digest_from_this_machines_copy(place: Place) -> None:
    folder = place.weights(tokenizer=True)
    digest = folder_digest(folder)
    shutil.move(folder, place.settings.home.weights / digest)
    spec = f"models:/mmfs-vqa/3#sha256:{digest}"
    assert place.begin(place.params(spec)) == Started(place.settings.home.weights / digest, place.config)


def test_with_no_steps_the_weights_are_taken_as_they_are(place: Place) -> None:
    folder = place.weights(tokenizer=True)
    params = place.params("weights:start", steps=0)
    result = adopt(place.paths, place.context, place.paths.pretrain, place.begin(params))
    record = WeightsRecord.read(place.paths.pretrain / "weights.json")
    assert record.model_digest == result.model_digest == folder_digest(folder) == place.tracking.models[0]["model_digest"]
    assert (result.steps, (place.paths.pretrain / "losses.csv").read_text()) == (0, "step,loss,text_loss,image_loss\n")
    assert json.loads((place.paths.pretrain / "metrics.json").read_text()) == {}

    place.values = merge(place.values, {"model": {"decoder_images": "all"}})
    other = adopt(place.paths, place.context, place.paths.pretrain, place.begin(place.params("weights:start", steps=0)))
    kept = place.settings.home.weights / other.model_digest
    assert load_config(kept / "config.json").decoder_images == "all"
    assert load_config(folder / "config.json").decoder_images == "previous", "the folder itself is left alone"


def test_a_lineage_knows_its_starts_and_without_any_is_as_it_was(tmp_path: Path) -> None:
    known = {"dvc_lock_sha256": "d", "stage_keys": {}, "data": {}, "params_sha256": "p", "requirements_sha256": "r", "image_digest": None}
    record = LineageRecord(run_id="a", git_sha="g", patch_sha256=None, seed=0, device="cpu", libraries={}, **known)
    assert record.digest == hashlib.sha256(record.model_dump_json(exclude={"run_id", "starts"}).encode()).hexdigest()
    record.write(tmp_path / "lineage.json")
    assert "starts" not in json.loads((tmp_path / "lineage.json").read_text())
    spec = f"weights:{tmp_path}/gone#sha256:{DIGEST}"
    other = record.model_copy(update={"starts": {"pretrain": spec}})
    other.write(tmp_path / "lineage.json")
    assert LineageRecord.read(tmp_path / "lineage.json") == other
    assert other.digest != record.digest
    assert other.tags()["mmfs.init_from.pretrain"] == spec


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The components of `official_tiny` as their libraries save them, for the tokenizer of `Place`."""
    root = tmp_path_factory.mktemp("public")
    entries = Tokenizer(fit(TEXTS, 300)).vocab_size
    torch.manual_seed(3)
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=24, num_attention_heads=4, image_size=224, patch_size=14
    )
    CLIPVisionModel(vision).save_pretrained(root / "vision")
    llama = LlamaConfig(
        vocab_size=entries, hidden_size=128, intermediate_size=256, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=4
    )
    LlamaForCausalLM(llama).save_pretrained(root / "language")
    sd = root / "diffusion"
    UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 32, 64, 64),
        layers_per_block=2,
        cross_attention_dim=64,
        attention_head_dim=4,
        norm_num_groups=8,
        use_linear_projection=True,
    ).save_pretrained(sd / "unet")
    AutoencoderKL(
        block_out_channels=(16, 16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=128,
    ).save_pretrained(sd / "vae")
    DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1).save_pretrained(sd / "scheduler")
    CLIPTextModel(
        CLIPTextConfig(vocab_size=3, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(sd / "text_encoder")
    words = root / "words"
    words.mkdir()
    (words / "vocab.json").write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}))
    (words / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizerFast(str(words / "vocab.json"), str(words / "merges.txt")).save_pretrained(sd / "tokenizer")
    shutil.rmtree(words)
    return root


def test_a_published_size_starts_from_components_in_their_true_formats(public: Path, tmp_path: Path) -> None:
    place = Place(tmp_path / "checkout", preset="official_tiny", mmfs_wiring="upsampling")
    place.values = merge(place.values, {"pretrain": {"row_tokens": 128}})
    started = place.begin(place.params(f"components:{public}"))
    assert started.config == place.config
    network = load_into(started.config, started.weights)
    own, head = network.state_dict(), load_file(public / "language" / "model.safetensors")["lm_head.weight"]
    assert torch.equal(own["text_decoder.head.weight"][: place.vocabulary], head)
    vae = load_file(public / "diffusion" / "vae" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(own["image_decoder.decoder.vae.decoder.conv_in.weight"], vae["decoder.conv_in.weight"])
    assert place.begin(place.params(f"components:{public}")) == started, "what an earlier attempt put together is taken"


def _resolved(root: Path, **pretrain: Any) -> Mapping[str, Any]:
    (root / "params").mkdir(parents=True, exist_ok=True)
    for name in ("params.yaml", "params/smoke.yaml"):
        shutil.copyfile(ROOT / name, root / name)
    sets = ["model.preset=official_tiny", "pretrain.row_tokens=128", *(f"pretrain.{key}={value}" for key, value in pretrain.items())]
    return resolve(root, "smoke", sets)


def test_a_published_size_is_refused_from_nothing_and_begins_with_components(public: Path, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"begins here as noise; set pretrain\.init_from to weights or components that have one"):
        _resolved(tmp_path)
    assert _resolved(tmp_path, init_from=f"components:{public}")["pretrain"]["init_from"] == f"components:{public}"


def test_components_of_another_model_are_named(public: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = Place(tmp_path / "checkout", preset="official_tiny")
    other = shutil.copytree(public, tmp_path / "other")
    values = json.loads((other / "language" / "config.json").read_text())
    (other / "language" / "config.json").write_text(json.dumps(values | {"num_hidden_layers": 6, "vocab_size": 50}))
    asked = {"folder": str(other), "target": str(tmp_path / "start"), "config": asdict(place.config), "seed": 0}
    assert assembly.main(json.dumps(asked)) == FailureClass.BAD_CONFIG.exit_code
    told = capsys.readouterr().err.splitlines()[-1]
    assert "language.layers is 6, the model has 8; model.vocab_size is 50" in told
    assert not (tmp_path / "start").exists()

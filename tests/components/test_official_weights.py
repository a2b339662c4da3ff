"""The released format in and out: lossless, in shards, under old names, and what is refused."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

import model.weights
from components.component_files import RECORD_FILE
from components.frozen_parts import FrozenFolders
from components.official_weights import export_release, import_release
from components.vae_names import current_name
from kernels.testing import assert_close
from model.build import build_model, load_model
from model.config import ConfigError
from model.input_size import resized_positions
from model.positions import sincos_2d
from model.presets import preset
from model.weights import WeightsError

POSITION_IDS = "visual_tokenizer.encoder.vision_model.embeddings.position_ids"
BODY, VAE = "visual_tokenizer.encoder.", "image_decoder.decoder.vae."
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def silent(told: str, done: int, total: int) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def released() -> dict[str, Tensor]:
    """A model's tensors as the official code saves them: the table of position ids, old names in the autoencoder, half precision."""
    tensors = {}
    for name, tensor in build_model(preset("official_tiny", vocab_size=50), seed=3).state_dict().items():
        for new, old in OLD.items():
            if ".vae." in name and f".{new}." in name:
                name, tensor = name.replace(new, old), tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        tensors[name] = tensor.half()
    tensors[POSITION_IDS] = torch.arange(257)[None]
    return tensors


@pytest.fixture
def folder(released: dict[str, Tensor], tmp_path: Path) -> Path:
    source = tmp_path / "released"
    source.mkdir()
    names = list(released)
    torch.save({name: released[name] for name in names[:700]}, source / "pytorch_model-00001-of-00002.bin")
    torch.save({name: released[name] for name in names[700:]}, source / "pytorch_model-00002-of-00002.bin")
    return source


def test_what_comes_in_is_what_was_released(folder: Path, released: dict[str, Tensor], tmp_path: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    done = import_release(folder, tmp_path / "ours", "official_tiny", None, lambda *told: heard.append(told))
    assert (done.files, done.tensors) == (2, len(released))
    assert len(done.renamed) == 16  # two attentions of four linear layers
    assert done.left_out == (POSITION_IDS,)
    steps = [f"pytorch_model-0000{n}-of-00002.bin {what}" for what in ("read", "converted") for n in (1, 2)]
    assert heard == [(step, number, 4) for number, step in enumerate(steps, 1)]
    loaded = load_model(tmp_path / "ours").state_dict()
    for name, tensor in released.items():
        if name != POSITION_IDS:
            assert torch.equal(loaded[current_name(name)].flatten(), tensor.float().flatten()), name


def test_out_and_in_again_is_lossless(folder: Path, tmp_path: Path) -> None:
    import_release(folder, tmp_path / "one", "official_tiny", None, silent)
    assert export_release(tmp_path / "one", tmp_path / "out", silent) == 2
    import_release(tmp_path / "out", tmp_path / "two", "official_tiny", None, silent)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)
    exported = torch.load(tmp_path / "out" / "pytorch_model-00001-of-00002.bin", weights_only=True)
    assert torch.equal(exported[POSITION_IDS], torch.arange(257)[None])
    assert exported["soi_token"].dtype == torch.float16


def test_tables_follow_a_larger_input(folder: Path, tmp_path: Path) -> None:
    import_release(folder, tmp_path / "ours", "official_tiny", 448, silent)
    model = load_model(tmp_path / "ours")
    assert model.config.vision.image_px == 448
    assert torch.equal(model.visual_tokenizer.pos_embed[1:], sincos_2d(32, 64).half().float())
    with torch.no_grad():
        features = model.visual_tokenizer(torch.rand(1, 3, 448, 448))
    assert [each.shape[-1] for each in features.maps] == [128, 64, 32, 16]


def test_what_does_not_fit_is_named_and_nothing_is_left(folder: Path, released: dict[str, Tensor], tmp_path: Path) -> None:
    target = tmp_path / "ours"
    with pytest.raises(ConfigError, match="release_130b"):
        import_release(folder, target, "release_130b", None, silent)
    with pytest.raises(WeightsError, match=r"tensors do not fit the configuration: .* and [0-9]+ more"):
        import_release(folder, target, "release_13b", None, silent)
    second = folder / "pytorch_model-00002-of-00002.bin"
    torch.save({"soi_token": released["soi_token"]}, folder / "again.bin")
    with pytest.raises(WeightsError, match="soi_token stands in another file"):
        import_release(folder, target, "official_tiny", None, silent)
    (folder / "again.bin").unlink()
    second.unlink()
    with pytest.raises(WeightsError, match=r"lacks 1 of 2 files, such as pytorch_model-00002-of-00002\.bin"):
        import_release(folder, target, "official_tiny", None, silent)
    (folder / "pytorch_model-00001-of-00002.bin").unlink()
    with pytest.raises(WeightsError, match=r"holds no \*\.bin"):
        import_release(folder, target, "official_tiny", None, silent)
    assert [path.name for path in tmp_path.iterdir()] == ["released"]


def cubic(distance: float) -> float:
    """The cubic convolution kernel with a = -0.75."""
    x = abs(distance)
    return 1.25 * x**3 - 2.25 * x**2 + 1 if x <= 1 else -0.75 * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


@pytest.mark.parametrize("px", [224, 336, 448])
def test_positions_are_resized_as_the_official_loader_does(px: int) -> None:
    """Bicubic without aligned corners, written out: cell i of the new grid lies at (i + 1/2) old / new - 1/2, edges repeat."""
    old, new = 16, px // 14
    table = torch.randn(1 + old * old, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = torch.zeros(new, old, dtype=torch.float64)
    for cell in range(new):
        place = (cell + 0.5) * old / new - 0.5
        for tap in range(math.floor(place) - 1, math.floor(place) + 3):
            weights[cell, min(max(tap, 0), old - 1)] += cubic(place - tap)
    expected = torch.einsum("ay,bx,yxc->abc", weights, weights, table[1:].view(old, old, 3)).reshape(new * new, 3)
    resized = resized_positions(table, new)
    assert torch.equal(resized[0], table[0])
    assert_close(resized[1:].float(), expected.float(), "op", "positions")


@pytest.fixture
def public(released: dict[str, Tensor], tmp_path: Path) -> FrozenFolders:
    """The frozen parts as their own folders would hold them; the autoencoder under its older names."""
    parts: dict[str, dict[str, Tensor]] = {"clip": {}, "vicuna": {}, "sd/vae": {}}
    for name, tensor in released.items():
        if name.startswith(f"{BODY}vision_model.") and "adapter_" not in name and name != POSITION_IDS:
            parts["clip"][name.removeprefix(BODY)] = tensor
        elif name.startswith("mm_decoder.") and "llama_cross_attn" not in name:
            parts["vicuna"][f"model.{name.removeprefix('mm_decoder.')}"] = tensor[:50].clone() if "embed" in name else tensor
        elif name == "text_decoder.head.weight":
            parts["vicuna"]["lm_head.weight"] = tensor[:50].clone()
        elif name.startswith(VAE):
            parts["sd/vae"][name.removeprefix(VAE)] = tensor
    for folder, tensors in parts.items():
        (tmp_path / "public" / folder).mkdir(parents=True)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "public" / folder / "model.safetensors")
    root = tmp_path / "public"
    return FrozenFolders(root / "clip", root / "vicuna", root / "sd")


def test_frozen_parts_may_come_from_the_public_folders(
    folder: Path, released: dict[str, Tensor], public: FrozenFolders, tmp_path: Path
) -> None:
    """What comes of a checkpoint of trained tensors alone is what comes of the whole one."""
    import_release(folder, tmp_path / "whole", "official_tiny", None, silent)
    trained = tmp_path / "trained"
    trained.mkdir()
    frozen = (
        "vision_model.encoder",
        "vision_model.pre",
        "vision_model.emb",
        "mm_decoder.layers",
        "mm_decoder.norm",
        "text_decoder.head.",
        ".vae.",
    )
    kept = {name: tensor for name, tensor in released.items() if "llama_cross_attn" in name or not any(part in name for part in frozen)}
    torch.save(kept, trained / "pytorch_model.bin")
    done = import_release(trained, tmp_path / "ours", "official_tiny", None, silent, public)
    assert (done.files, done.tensors) == (1, len(kept))
    assert sum(done.from_public.values()) + done.tensors == len(released) - 1  # without position ids
    ours, whole = load_model(tmp_path / "ours").state_dict(), load_model(tmp_path / "whole").state_dict()
    differ = [name for name in whole if not torch.equal(ours[name], whole[name])]
    assert not differ
    assert sorted(json.loads((tmp_path / "ours" / RECORD_FILE).read_text())["files"]) == sorted(done.from_public)
    assert sorted(done.from_public) == [f"{role}/model.safetensors" for role in ("diffusion/vae", "language", "vision")]
    with pytest.raises(WeightsError, match=r"missing image_decoder\.decoder\.vae"):
        import_release(trained, tmp_path / "less", "official_tiny", None, silent, FrozenFolders(public.vision, public.language))


def test_what_the_checkpoint_holds_is_not_taken_from_elsewhere(folder: Path, public: FrozenFolders, tmp_path: Path) -> None:
    done = import_release(folder, tmp_path / "ours", "official_tiny", None, silent, public)
    assert done.from_public == {}
    assert not (tmp_path / "ours" / RECORD_FILE).exists()


class Bomb:
    """What a hostile pickle would do."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("exploded"),))


def test_a_pickle_that_is_no_weights_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "released"
    source.mkdir()
    for content in (pickle.dumps(Bomb()), b"", b"PK not a zip", b"hello", b"\x80\x02."):
        (source / "model.bin").write_bytes(content)
        with pytest.raises(WeightsError, match=r"model\.bin is no file of weights"):
            import_release(source, tmp_path / "ours", "official_tiny", None, silent)
    torch.save(Bomb(), source / "model.bin")
    with pytest.raises(WeightsError, match=r"model\.bin is no file of weights"):
        import_release(source, tmp_path / "ours", "official_tiny", None, silent)
    torch.save({"epoch": 3}, source / "model.bin")
    with pytest.raises(WeightsError, match="other things than tensors"):
        import_release(source, tmp_path / "ours", "official_tiny", None, silent)
    assert not (tmp_path / "exploded").exists()


def test_tied_tensors_come_in(released: dict[str, Tensor], tmp_path: Path) -> None:
    """Two names for one memory, which safetensors does not write."""
    source = tmp_path / "released"
    source.mkdir()
    one, other = (f"mm_decoder.layers.1.self_attn.{name}_proj.weight" for name in "qk")
    torch.save(released | {one: released[other]}, source / "model.bin")
    import_release(source, tmp_path / "ours", "official_tiny", None, silent)
    loaded = load_model(tmp_path / "ours").state_dict()
    assert torch.equal(loaded[one], released[other].float())
    assert torch.equal(loaded[other], released[other].float())


SOI, EMBEDDINGS = "soi_token", "mm_decoder.embed_tokens.weight"


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({SOI: torch.zeros(1, 128, dtype=torch.int64)}, "soi_token is strided int64, not dense"),
        ({SOI: torch.zeros(1, 128).to_sparse()}, "soi_token is sparse_coo float32, not dense"),
        ({EMBEDDINGS: torch.tensor(1.0)}, r"embed_tokens.weight is \(\), no table"),
        ({EMBEDDINGS: torch.zeros(1, 128)}, r"embed_tokens.weight is \(1, 128\), no table"),
        ({f"module.{SOI}": torch.zeros(1, 128)}, r"begin with module\., which a parallel wrapper adds"),
        ({SOI: torch.zeros(1, 128)}, r"embed_tokens.weight and \d+ others, such as context_feat_proj\.bias, are in none of the files"),
    ],
)
def test_tensors_that_are_no_weights_are_named(tensors: dict[str, Tensor], said: str, tmp_path: Path) -> None:
    torch.save(tensors, tmp_path / "model.bin")
    with pytest.raises(WeightsError, match=said):
        import_release(tmp_path, tmp_path / "ours", "official_tiny", None, silent)


def test_what_else_ends_in_bin_is_to_be_removed(folder: Path, tmp_path: Path) -> None:
    torch.save(Bomb(), folder / "training_args.bin")
    with pytest.raises(WeightsError, match=r"training_args\.bin holds a trainer's settings and no weights; remove it"):
        import_release(folder, tmp_path / "ours", "official_tiny", None, silent)
    (folder / "training_args.bin").unlink()
    (folder / "cache.bin").mkdir()
    with pytest.raises(WeightsError, match=r"cache\.bin is no file; remove it"):
        import_release(folder, tmp_path / "ours", "official_tiny", None, silent)


class Watch:
    """Around a reader of shards: no tensor of an earlier one may be in memory when the next is read."""

    def __init__(self, read: Callable[..., dict[str, Tensor]]) -> None:
        self.read = read
        self.held: list[StorageWeakRef] = []
        self.calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        assert all(storage.expired() for storage in self.held)
        shard = self.read(*args, **kwargs)
        self.held = [StorageWeakRef(tensor.untyped_storage()) for tensor in shard.values()]
        self.calls += 1
        return shard


@pytest.mark.parametrize("zipped", [True, False])
def test_one_shard_is_in_memory_at_a_time(
    released: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    """In, into a model and out; files of older torch cannot be mapped, so their tensors are memory."""
    source = tmp_path / "released"
    source.mkdir()
    names = list(released)
    for part in range(4):
        shard = {name: released[name] for name in names[part::4]}
        torch.save(shard, source / f"part-{part}.bin", _use_new_zipfile_serialization=zipped)
    bins, ours = Watch(torch.load), Watch(model.weights.load_file)
    monkeypatch.setattr(torch, "load", bins)
    monkeypatch.setattr(model.weights, "load_file", ours)
    import_release(source, tmp_path / "ours", "official_tiny", None, silent)
    assert bins.calls == 8  # listed, then converted
    load_model(tmp_path / "ours")
    ours.held = []
    export_release(tmp_path / "ours", tmp_path / "out", silent)
    assert ours.calls == 8

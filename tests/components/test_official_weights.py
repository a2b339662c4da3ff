"""The released format in and out: lossless, in shards, under old names, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from components.official_weights import current_name, export_release, import_release
from model.build import build_model, load_model
from model.config import ConfigError
from model.positions import sincos_2d
from model.presets import preset
from model.weights import WeightsError

POSITION_IDS = "visual_tokenizer.encoder.vision_model.embeddings.position_ids"
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def silent(_: str) -> None:
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
    heard: list[str] = []
    done = import_release(folder, tmp_path / "ours", "official_tiny", None, heard.append)
    assert (done.files, done.tensors) == (2, len(released))
    assert len(done.renamed) == 16  # two attentions of four linear layers
    assert done.left_out == (POSITION_IDS,)
    assert heard == [f"pytorch_model-0000{n}-of-00002.bin {what}" for what in ("read", "converted") for n in (1, 2)]
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
    with pytest.raises(WeightsError, match=r"missing|text_decoder\.head\.weight is in none"):
        import_release(folder, target, "official_tiny", None, silent)
    (folder / "pytorch_model-00001-of-00002.bin").unlink()
    with pytest.raises(WeightsError, match=r"holds no \*\.bin"):
        import_release(folder, target, "official_tiny", None, silent)
    assert [path.name for path in tmp_path.iterdir()] == ["released"]


class Bomb:
    """What a hostile pickle would do."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("exploded"),))


def test_a_pickle_that_is_no_weights_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "released"
    source.mkdir()
    for content in (pickle.dumps(Bomb()), b"", b"PK not a zip"):
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

"""Preparation at scale: the same bytes whoever does it and however often it is killed; a bad input shard costs itself and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from preparation_world import run, tree
from tiny_line import SOURCE
from tokenizers import decoders, models, normalizers, trainers
from unit_corpus import READER, write_units

from components.data.index import Index
from components.data.preparation import mapping
from components.data.preparation.attempt import read_mark
from components.data.sources.formats import FORMATS
from components.params import DataParams, load
from components.run.codedeps import import_closure
from components.run.events import read_events
from components.run.failures import FailureClass, StageError

GOOD: dict[str, Any] = {f"u{number}": {"documents": 7 + number, "rejects": True} for number in range(5)}


@pytest.fixture(autouse=True)
def _corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, "units", READER)
    monkeypatch.setattr(mapping, "BACKOFF_S", 0.05)


def data(*names: str, **changes: Any) -> DataParams:
    corpora = [{"name": name, "format": "units"} for name in names or ("mine",)]
    known = load(SOURCE / "params.yaml").data.model_dump() | {"source": "corpora", "corpora": corpora, "shard_documents": 3}
    return DataParams.model_validate(known | {"max_quarantine_rate": 0.5, "vocabulary_size": 300, "shard_attempts": 2} | changes)


def shards_of(root: Path) -> dict[str, str]:
    return {name: digest for name, digest in tree(root / "outputs").items() if name.startswith("shards/")}


def quarantine(root: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (root / "outputs/index/quarantine.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What comes of GOOD in one process."""
    root = tmp_path_factory.mktemp("undisturbed")
    write_units(root / "data/input/mine", **GOOD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FORMATS, "units", READER)
        run(root, data())
    return tree(root / "outputs")


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_processes_gives_the_same_bytes(tmp_path: Path, undisturbed: dict[str, str], workers: int) -> None:
    write_units(tmp_path / "data/input/mine", **GOOD)
    result = run(tmp_path, data(), workers)
    assert tree(tmp_path / "outputs") == undisturbed
    assert result.quarantined == 7
    assert result.metrics["documents_per_second"] > 0
    assert "documents_per_second" not in json.loads((tmp_path / "outputs/index/metrics.json").read_text()), "times are no outs"
    told = [event for event in read_events(tmp_path / "events.jsonl") if event.name == "progress"]
    assert told and told[0].values["unit"] == "input shards" and "megabytes_per_second" in told[0].values["metrics"]


def test_dask_workers_give_the_same_bytes_and_outlive_an_input_shard_that_kills_them(
    tmp_path: Path, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import dask
    from distributed import LocalCluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(SOURCE), str(Path(__file__).parent))))
    write_units(tmp_path / "data/input/mine", **GOOD)
    write_units(tmp_path / "bad/data/input/mine", **GOOD, crash={"does": "crash"})
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "processes": True}
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}), LocalCluster(**options) as cluster:
        run(tmp_path, data(), dask=cluster.scheduler_address)
        assert tree(tmp_path / "outputs") == undisturbed
        result = run(tmp_path / "bad", data(shard_attempts=1), dask=cluster.scheduler_address)
    assert result.metrics["quarantined_shards"] == 1
    assert shards_of(tmp_path / "bad") == {name: digest for name, digest in undisturbed.items() if name.startswith("shards/")}


def test_an_absent_dask_scheduler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.data.preparation.executors.CONNECT_TIMEOUT_S", 0.5)
    write_units(tmp_path / "data/input/mine", **GOOD)
    with pytest.raises(StageError, match=r"no Dask scheduler with workers answers at tcp://127\.0\.0\.1:1") as error:
        run(tmp_path, data(), dask="tcp://127.0.0.1:1")
    assert error.value.failure is FailureClass.INFRASTRUCTURE


def test_a_killed_preparation_goes_on_and_redoes_only_what_was_under_way(tmp_path: Path, undisturbed: dict[str, str]) -> None:
    write_units(tmp_path / "data/input/mine", **GOOD)
    parts = tmp_path / "work/body/parts"
    program = (
        "import sys; from pathlib import Path; import test_data_preparation as test\n"
        "from components.data.sources.formats import FORMATS\n"
        "FORMATS['units'] = test.READER\n"
        "test.run(Path(sys.argv[1]), test.data(), 2)\n"
    )
    slow = {name: values | {"seconds": 0.05} for name, values in GOOD.items()}
    write_units(tmp_path / "data/input/mine", **slow)
    path = os.pathsep.join((str(SOURCE), str(Path(__file__).parent)))
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, start_new_session=True, stderr=subprocess.PIPE) as child:
        deadline = time.monotonic() + 60
        while len(whole(parts)) < 2:
            assert child.poll() is None and time.monotonic() < deadline, child.stderr and child.stderr.read()
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)  # its workers end by themselves: nobody kills the group
        child.wait()
    workers = {mark.pid for path in (tmp_path / "work/body/running").iterdir() if (mark := read_mark(path)) is not None}
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "a worker outlives its supervisor"
        time.sleep(0.01)
    before = {part: (part / "part.json").stat().st_mtime_ns for part in whole(parts)}
    assert 2 <= len(before) < len(GOOD)
    run(tmp_path, data(), 2)
    assert {part: (part / "part.json").stat().st_mtime_ns for part in before} == before
    assert len(whole(parts)) == len(GOOD)
    got, wanted = tree(tmp_path / "outputs"), undisturbed
    assert got == wanted


def whole(parts: Path) -> list[Path]:
    return sorted(path.parent for path in parts.glob("*/part.json") if not path.parent.name.startswith("."))


def test_a_damaged_part_is_made_again(tmp_path: Path, undisturbed: dict[str, str]) -> None:
    write_units(tmp_path / "data/input/mine", **GOOD)
    run(tmp_path, data())
    for part in whole(tmp_path / "work/body/parts")[:2]:
        (part / "rows.jsonl").write_bytes((part / "rows.jsonl").read_bytes()[:-5])
    run(tmp_path, data())
    assert tree(tmp_path / "outputs") == undisturbed


def test_what_crashes_raises_or_hangs_is_quarantined_whole_and_costs_nobody_else(tmp_path: Path, undisturbed: dict[str, str]) -> None:
    bad = {"a_crash": {"does": "crash"}, "u2_raise": {"does": "raise"}, "u9_hang": {"does": "hang"}}
    write_units(tmp_path / "data/input/mine", **GOOD, **bad)
    result = run(tmp_path, data(shard_timeout_s=1.5), 2)
    assert result.metrics["quarantined_shards"] == 3
    reasons = {line["where"]: line["reason"] for line in quarantine(tmp_path) if line["reason"].startswith("the whole")}
    assert "its worker process died" in reasons["a_crash.unit"]
    assert reasons["u2_raise.unit"] == "the whole input shard, after 2 attempts: RuntimeError: cannot read u2_raise.unit"
    assert "took longer than 1.5 s" in reasons["u9_hang.unit"]
    assert shards_of(tmp_path) == {name: digest for name, digest in undisturbed.items() if name.startswith("shards/")}


def test_too_many_bad_input_shards_stop_the_stage_with_the_reasons(tmp_path: Path) -> None:
    write_units(tmp_path / "data/input/mine", **{f"r{number}": {"does": "raise"} for number in range(3)}, good={})
    with pytest.raises(StageError, match=r"2 of 4 input shards cannot be prepared in 2 attempts.*2 times, first mine/r\d.unit") as error:
        run(tmp_path, data(max_quarantine_rate=0.3))
    assert error.value.failure is FailureClass.BAD_DATA
    assert not (tmp_path / "outputs").exists()


def test_a_failure_that_passes_is_tried_again(tmp_path: Path) -> None:
    write_units(tmp_path / "data/input/mine", once={"does": "raise once"}, good={})
    assert run(tmp_path, data()).quarantined == 0


def test_a_full_disk_is_no_bad_data(tmp_path: Path) -> None:
    write_units(tmp_path / "data/input/mine", full={"does": "full"}, good={})
    with pytest.raises(StageError, match="the disk is full while writing somewhere") as error:
        run(tmp_path, data(), 1)
    assert error.value.failure is FailureClass.INFRASTRUCTURE


def test_reasons_are_grouped_when_the_stage_stops(tmp_path: Path) -> None:
    write_units(tmp_path / "data/input/mine", many={"documents": 50, "rejects": True})
    with pytest.raises(StageError, match=r"10 of 50 documents are unusable.*10 times, first many.unit:4: number 4 is not wanted"):
        run(tmp_path, data(max_quarantine_rate=0.1))


def test_an_id_is_one_documents_over_all_input_shards_and_corpora(tmp_path: Path) -> None:
    for corpus in ("mine", "theirs"):
        write_units(tmp_path / "data/input" / corpus, one={"documents": 8}, two={"documents": 8, "first": 5, "key": "one"})
    result = run(tmp_path, data("mine", "theirs"))
    repeated = [line for line in quarantine(tmp_path) if "was used before, in mine/one.unit" in line["reason"]]
    assert [(line["corpus"], line["where"]) for line in repeated] == [("mine", "two.unit")] * 3
    index = Index(tmp_path / "outputs/index")
    ids = [row.id for split in ("train", "evaluation") for row in index.rows(split, "caption")]
    assert result.documents == len(ids) == len(set(ids)) == 26
    stored = Counter[str]()
    for shard in (tmp_path / "outputs/shards").iterdir():
        data_bytes = shard.read_bytes()
        stored.update(row.id for row in rows_of(index) if row.shard == shard.name and data_bytes[row.offset :].startswith(row.id.encode()))
        assert hashlib.sha256(data_bytes).hexdigest() == index.shards[shard.name].sha256
    assert set(stored.values()) == {1} and len(stored) == 26
    assert sum(shard.documents for shard in index.shards.values()) == 26, "the repeated ones have left the shards"


def rows_of(index: Index) -> list[Any]:
    return [row for split in ("train", "evaluation") for row in index.rows(split, "caption")]


def test_the_tokenizer_does_not_depend_on_how_documents_are_cut_into_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.data.preparation.whole.FITTED_TEXTS", 9)
    made = []
    for name, units in {"whole": {"one": {"documents": 24}}, "cut": {
        "a": {"documents": 10, "key": "one"}, "b": {"documents": 14, "first": 10, "key": "one"}
    }}.items():  # fmt: skip
        write_units(tmp_path / name / "data/input/mine", **units)
        run(tmp_path / name, data())
        made.append((tmp_path / name / "outputs/index/tokenizer.json").read_bytes())
    assert made[0] == made[1]


def llama_like() -> str:
    """A tokenizer.json with the parts of Llama's: a sign for the space before each text, bytes as a fallback."""
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator(
        ["a picture of number 7 from one . 0 1 2 3 4 5 6 8 9"] * 3, trainers.BpeTrainer(vocab_size=400, special_tokens=special)
    )
    return str(tokenizer.to_str())


def test_a_given_tokenizer_counts_as_it_would_by_itself(tmp_path: Path) -> None:
    write_units(tmp_path / "data/input/mine", one={"documents": 8})
    given = llama_like()
    (tmp_path / "data/input/tokenizer.json").write_text(given)
    run(tmp_path, data(tokenizer="llama/tokenizer.json"))
    index = Index(tmp_path / "outputs/index")
    assert (tmp_path / "outputs/index/tokenizer.json").read_text() == given
    text = "a picture of number 6 from one ."
    theirs = tokenizers.Tokenizer.from_str(given).encode(text, add_special_tokens=False).ids
    assert index.tokenizer.encode(text) == theirs and index.tokenizer.lengths([text]) == [len(theirs)]
    assert index.tokenizer.decode(theirs) == text
    row = next(row for row in index.rows("train", "caption") if row.id == "mine-one-6")
    assert row.tokens == len(theirs)
    (tmp_path / "data/input/tokenizer.json").write_text(given.replace("</s>", "</t>"))
    with pytest.raises(StageError, match="ids 0, 1, 2 must be"):
        run(tmp_path, data(tokenizer="llama/tokenizer.json"))


def test_counts_say_what_a_version_holds(tmp_path: Path) -> None:
    write_units(tmp_path / "data/input/mine", one={"documents": 10, "rejects": True})
    run(tmp_path, data())
    counts = json.loads((tmp_path / "outputs/index/counts.json").read_text())
    assert [(row["source"], row["kind"], row["split"], row["documents"], row["images"]) for row in counts["documents"]] == [
        ("mine", "caption", "evaluation", 2, 2),
        ("mine", "caption", "train", 6, 6),
    ]
    assert counts["quarantined"] == [
        {"corpus": "mine", "documents": 2, "reasons": [{"count": 2, "where": "one.unit:4", "reason": "number 4 is not wanted"}]}
    ]


def test_what_was_never_fetched_is_counted_apart_and_harms_no_rate(tmp_path: Path) -> None:
    write_units(tmp_path / "data/input/mine", one={"documents": 5, "missing": 30}, two={"documents": 5, "rejects": True})
    result = run(tmp_path, data(max_quarantine_rate=0.1))
    assert (result.documents, result.quarantined, result.metrics["missing"], result.metrics["quarantine_rate"]) == (9, 1, 30, 0.1)
    assert result.summary.endswith("1 quarantined, 30 missing")
    counts = json.loads((tmp_path / "outputs/index/counts.json").read_text())
    first = {"count": 30, "where": "one.unit:0", "reason": "number 0 was not fetched"}
    assert counts["missing"] == [{"corpus": "mine", "documents": 30, "reasons": [first]}]
    assert [one["documents"] for one in counts["quarantined"]] == [1]
    assert [line["missing"] for line in quarantine(tmp_path)] == [True] * 30 + [False]


def test_a_corpus_of_which_all_is_missing_says_so(tmp_path: Path) -> None:
    write_units(tmp_path / "data/input/mine", one={"documents": 0, "missing": 3})
    with pytest.raises(StageError, match=r"no usable document.*3 documents or pictures are missing: 3 times, first one.unit:0"):
        run(tmp_path, data())


def test_what_waits_for_a_caption_is_quarantined_with_the_command_that_makes_one(tmp_path: Path) -> None:
    write_units(tmp_path / "data/input/mine", one={"documents": 6, "wait": 1})
    run(tmp_path, data())
    (refused,) = quarantine(tmp_path)
    assert refused["where"] == "one.unit:mine-one-waiting-0"
    assert "`mmfs data caption`" in refused["reason"] and "format `captioned`" in refused["reason"]


def test_what_a_corpus_notes_of_its_whole_is_a_warning_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_units(tmp_path / "data/input/mine", one={"documents": 7, "rejects": True, "missing": 2}, two={"documents": 4})
    corpora = [{"name": "mine", "format": "units", "options": {"complete": 20}}]
    run(tmp_path, data(corpora=corpora))
    note = "13 records, the complete corpus has 20"
    counts = json.loads((tmp_path / "outputs/index/counts.json").read_text())
    assert counts["notes"] == [{"corpus": "mine", "note": note}]
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [note]
    again = tmp_path / "again"
    write_units(again / "data/input/mine", one={"documents": 20})
    run(again, data(corpora=corpora))
    assert json.loads((again / "outputs/index/counts.json").read_text())["notes"] == []


def test_code_of_every_format_is_a_dependency_of_prepare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(FORMATS, "units")
    closure = import_closure(SOURCE)(["components.prepare"])
    wanted = {reader.partition(":")[0].replace(".", "/") + ".py" for reader in FORMATS.values()}
    assert wanted <= set(closure)

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.data.documents import Document, ImageItem, TextItem
from components.evaluation.answer_log import Answer, AnswerLog, TextAnswer, read_answers
from components.evaluation.job import Job, batches, unanswered
from components.evaluation.manifest import MANIFEST_FILE, Manifest, Request, Stories, plan
from components.params import SamplingParams


def document(number: int, kind: str = "story", text: str = "northwest a 3.") -> Document:
    items = (
        TextItem(text=text),
        ImageItem(id="0", path="a.png", sha256="ab"),
        TextItem(text="then"),
        ImageItem(id="1", path="b.png", sha256="cd"),
    )
    return Document(id=f"d{number}", source="s", kind=kind, split="evaluation", licence="x", origin="natural", items=items, prompt_items=1)


def story_plan(**differs) -> Manifest:
    values = {"seed": 0, "sampling": SamplingParams(), "data": {"documents": "1"}} | differs
    return plan("story", [document(0), document(1)], **values)


def test_a_story_is_asked_frame_by_frame_from_both_models_and_once_as_a_whole():
    asked = [(request.document, request.mode, request.answering, request.items) for request in story_plan().requests]
    frames = [(document, "picture", who, items) for document in ("d0", "d1") for who in ("task", "pretrain") for items in (1, 3)]
    assert asked == [*frames, ("d0", "document", "task", 1), ("d1", "document", "task", 1)]


def test_fewer_frames_and_tellings_are_drawn_by_the_storys_id_for_both_models():
    requests = story_plan(stories=Stories(frames=1, told=1)).requests
    assert [request.mode for request in requests] == ["picture"] * 4 + ["document"]
    assert [request.draw for request in requests[::2][:2]] == [request.draw for request in requests[1::2][:2]]
    assert requests == story_plan(stories=Stories(frames=1, told=1)).requests
    chosen = {
        request.items
        for seed in range(9)
        for request in story_plan(seed=seed, stories=Stories(frames=1)).requests
        if request.mode == "picture"
    }
    assert chosen == {1, 3}


def test_both_models_start_a_picture_from_the_same_draw_and_other_samples_from_others():
    task, _, pretrain, *_, whole = story_plan().requests
    assert task.draw == pretrain.draw != whole.draw
    assert len({request.draw for request in story_plan().requests}) == 6


def test_the_hash_names_everything_that_is_asked():
    known = story_plan().sha256
    assert story_plan().sha256 == known
    different = [
        story_plan(seed=1),
        story_plan(sampling=SamplingParams(steps=3)),
        story_plan(data={"documents": "2"}),
        plan("story", [document(1), document(0)], seed=0, sampling=SamplingParams(), data={"documents": "1"}),
        plan("story", [document(0), document(1, text="other")], seed=0, sampling=SamplingParams(), data={"documents": "1"}),
    ]
    assert len({known, *(manifest.sha256 for manifest in different)}) == 6


def test_a_manifest_reads_back_and_refuses_what_it_does_not_understand(tmp_path):
    path = tmp_path / MANIFEST_FILE
    story_plan().write(path)
    assert Manifest.read(path) == story_plan()
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"seed": 3}))
    with pytest.raises(ValueError, match="was changed"):
        Manifest.read(path)
    path.write_text(json.dumps(values | {"version": 2}))
    with pytest.raises(ValueError, match="update mmfs"):
        Manifest.read(path)


@given(st.integers(0, 60), st.integers(1, 20), st.integers(1, 4))
def test_batches_hold_every_request_once_and_give_all_ranks_work(count, size, ranks):
    template = story_plan().requests[0]
    requests = [replace(template, id=str(number)) for number in range(count)]
    cut = batches(requests, size, ranks)
    assert [request for batch in cut for request in batch] == requests
    assert all(0 < len(batch) <= size for batch in cut)
    assert len(cut) >= min(ranks, count)
    if cut:
        assert max(map(len, cut)) - min(map(len, cut)) <= 1


def test_batches_never_mix_models_or_modes():
    for batch in batches(story_plan().requests, 8, 1):
        assert len({(request.mode, request.answering) for request in batch}) == 1


def answered(request: Request) -> Answer:
    return Answer(request=request.id, items=(TextAnswer(text="a"),), ended=True)


def test_only_what_has_no_answer_yet_is_asked_again_by_whichever_rank(tmp_path):
    manifest = story_plan()
    job = Job(models={}, index="", shards={}, batch_documents=1, ranks=2, device="cpu", deterministic=True)
    first, *rest = unanswered(tmp_path, manifest, job, 0)
    with AnswerLog(tmp_path, 1) as log:
        log.append([answered(request) for request in first])
    assert unanswered(tmp_path, manifest, job, 0) == rest
    assert sum(map(len, unanswered(tmp_path, manifest, job, 1))) + sum(map(len, rest)) == len(manifest.requests) - 1


def test_a_log_torn_at_any_byte_loses_at_most_its_last_row(tmp_path):
    requests = story_plan().requests[:3]
    with AnswerLog(tmp_path, 0) as log:
        log.append([answered(request) for request in requests])
    whole = (tmp_path / "answers-0.jsonl").read_bytes()
    for length in range(len(whole) - len(whole.splitlines()[-1]) - 1, len(whole)):
        (tmp_path / "answers-0.jsonl").write_bytes(whole[:length])
        assert set(read_answers(tmp_path)) >= {request.id for request in requests[:2]}
        with AnswerLog(tmp_path, 0) as log:
            log.append([answered(requests[2])])
        assert set(read_answers(tmp_path)) == {request.id for request in requests}


def test_an_answer_whose_picture_is_damaged_counts_as_none(tmp_path):
    import numpy as np

    with AnswerLog(tmp_path, 0) as log:
        picture = log.keep("d0/picture/1/task", 0, np.zeros((4, 4, 3), np.uint8))
        log.append([Answer(request="d0/picture/1/task", items=(picture,), ended=True)])
    assert set(read_answers(tmp_path)) == {"d0/picture/1/task"}
    (tmp_path / "generated" / picture.file).write_bytes(b"x")
    assert read_answers(tmp_path) == {}

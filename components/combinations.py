"""Parameters that are right one by one and cannot be together: the keys and the fix, before any work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from components.kinds import KINDS
from components.metrics import METRICS, kinds_of, metrics_of
from components.mixing import is_drawn

if TYPE_CHECKING:
    from components.params import GateRule, Params, Task


def contradictions(params: Params) -> Iterator[str]:
    """One line per impossible combination, which begins with the key to change."""
    for one in dict.fromkeys(one.task for one in METRICS.values()):
        yield from _gate(params, one)
    for task in params.tasks:
        yield from _evaluation(params, task)
    for stage in params.training_stages:
        yield from _sharing(params, stage)
    for stage in params.training_stages:
        yield from _mixture(params, stage)
    for stage in params.training_stages:
        yield from _start(params, stage)


def _start(params: Params, stage: str) -> Iterator[str]:
    key, start = params.training_key(stage), params.start(stage)
    if stage == "pretrain" and start.kind == "stage":
        yield f"{key}.init_from is {start}, which is this stage itself; set it to scratch or to weights from outside"
    if start.kind == "scratch" and not params.training(stage).steps:
        yield f"{key}.steps is 0, which takes the weights it starts from as they are, and it starts from nothing; set {key}.init_from"


def _gate(params: Params, task: Task) -> Iterator[str]:
    rule: GateRule = getattr(params.gate, task)
    known = metrics_of(task, paired=True)
    named = [("metric", rule.metric), *(("also", name) for name in rule.also), *(("guards", name) for name in rule.guards)]
    for key, metric in named:
        if metric not in known:
            why = "has no score per document that could be compared" if metric in metrics_of(task) else f"is no metric of task {task}"
            yield f"gate.{task}.{key}: {metric!r} {why}; choose from {', '.join(known)}"
        elif task in params.tasks and not params.evaluate.documents.get(kind := METRICS[metric].kind, 0):
            yield f"gate.{task}.{key}: {metric} needs held-out documents of kind {kind}; set evaluate.documents.{kind} above 0"


def _evaluation(params: Params, task: Task) -> Iterator[str]:
    asked = params.evaluate.documents
    for kind in kinds_of(task):
        composed = params.data.evaluation_documents.get(kind, 0)
        if params.data.source == "digits" and asked.get(kind, 0) > composed:
            yield (
                f"evaluate.documents.{kind} is {asked[kind]}, data.evaluation_documents.{kind} is {composed}; "
                f"set the first to at most {composed} or raise the second"
            )
    if task == "story" and params.evaluate.told_stories > (stories := asked.get("story", 0)):
        yield f"evaluate.told_stories is {params.evaluate.told_stories}, evaluate.documents.story is {stories}; set it to at most {stories}"


def _sharing(params: Params, stage: str) -> Iterator[str]:
    training = params.training(stage)
    if training.offload == "parameters" and training.zero_stage < 3:
        key = params.training_key(stage)
        yield f"{key}.offload is parameters, which only zero_stage 3 shares out; set {key}.zero_stage=3 or {key}.offload=optimizer"


def _mixture(params: Params, stage: str) -> Iterator[str]:
    """Names that nothing prepared can have. What a folder of the user holds is known when it is read."""
    known = _names(params)
    if known is None or not params.training(stage).steps:
        return
    key = params.training_key(stage)
    for name, weight in params.training(stage).mixture.items():
        told = f"{key}.mixture.{name} is {weight:g}" if isinstance(weight, float) else f"{key}.mixture.{name} is above 0"
        if not is_drawn(weight) or name in known:
            continue
        if params.data.source == "digits" and (kind := name.removeprefix("digits/")) in params.data.documents:
            yield f"{told} and data.documents.{kind} is 0; raise the second or set {key}.mixture.{name}=0"
        else:
            yield f"{told}, and there are no documents of that name; there are {', '.join(sorted(known))}"


def _names(params: Params) -> set[str] | None:
    """What a mixture can name, by what is configured; None where only the input can tell."""
    if params.data.source == "digits":
        kinds = {kind for kind, count in params.data.documents.items() if count}
        return kinds | {"digits"} | {f"digits/{kind}" for kind in kinds}
    corpora = params.data.corpora
    if not corpora or any(corpus.format == "documents" for corpus in corpora):  # whose documents name their source themselves
        return None
    names = {corpus.name for corpus in corpora if corpus.split == "train"}
    return names | set(KINDS) | {f"{name}/{kind}" for name in names for kind in KINDS}

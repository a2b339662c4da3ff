"""Stage `prepare`: the input becomes checked documents in WebDataset shards, with an index and a tokenizer.

A pure function of data/input and the `data` and `seed` parameters: the same input gives the same bytes, on however many workers. How it is
done is in components/data/preparation.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from components.data.documents import CorpusError
from components.data.filters.funnel import FUNNEL_FILE
from components.data.preparation.assembly import Assembly
from components.data.preparation.executors import cores, open_crew
from components.data.preparation.inputs import corpora, wanted_workers
from components.data.preparation.progress import Progress
from components.data.takedowns import taken_down
from components.params import Params
from components.results import PrepareResult
from components.run.failures import FailureClass, StageError
from components.run.main import StageContext, stage_main
from components.run.paths import Paths

_TABLE = "filters.json"


def run(params: Params, paths: Paths, context: StageContext) -> PrepareResult:
    """Write outputs/shards and outputs/index, each whole or not at all. Unusable input fails with class bad_data."""
    try:
        return _prepare(params, paths, context)
    except CorpusError as error:
        raise StageError(FailureClass.BAD_DATA, str(error), "mend the input named here and run again") from None


def _prepare(params: Params, paths: Paths, context: StageContext) -> PrepareResult:
    data, settings = params.data, context.settings
    found = corpora(data, params.seed, paths.input)
    units = sum(len(corpus.units) for corpus in found)
    progress = Progress(context.events, lambda points: context.tracking.log_metrics(points), units)
    asked = settings.prepare_workers
    workers = wanted_workers(data, cores(), units) if asked is None else asked
    with open_crew(workers, settings.dask, data.shard_timeout_s, lambda documents, size: None) as crew:
        assembly = Assembly(data, params.seed, found, context.work.body, crew, progress, taken_down(paths.takedowns))
        made = assembly.run(paths.input_tokenizer if data.tokenizer else None)
    _log_funnel(made.index, context)
    context.work.publish(made.shards, paths.shards)
    context.work.publish(made.index, paths.index)
    documents = sum(int(made.metrics[f"{split}_documents"]) for split in ("train", "evaluation"))
    quarantined, missing = int(made.metrics["quarantined"]), int(made.metrics["missing"])
    return PrepareResult(
        metrics=made.metrics | (progress.rates() if progress.documents else {}),
        summary=f"{documents} documents in {made.shard_count} shards, {quarantined} quarantined{f', {missing} missing' if missing else ''}",
        documents=documents,
        quarantined=quarantined,
        index_sha256=made.index_sha256,
    )


def _log_funnel(index: Path, context: StageContext) -> None:
    """The funnel as a table of MLflow's, which its page of a run's artifacts shows and `mlflow.load_table` reads."""
    rows: list[dict[str, Any]] = json.loads((index / FUNNEL_FILE).read_text(encoding="utf-8"))["rows"]
    if not rows:
        return
    table = context.work.body / _TABLE
    values = {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}
    table.write_text(json.dumps(values), encoding="utf-8")
    context.tracking.log_artifact(table)
    context.tracking.set_tags({"mlflow.loggedArtifacts": json.dumps([{"path": _TABLE, "type": "table"}])})


if __name__ == "__main__":
    sys.exit(stage_main("prepare", run))

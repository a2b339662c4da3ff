"""A registry for tests: a real MLflow store with published weights and evaluations, without any training."""

from __future__ import annotations

import json
from pathlib import Path

from mlflow.tracking import MlflowClient

from components.register import Candidate, Origin, register
from components.registry.ledger import Ledger
from components.registry.package import DIGEST_TAG
from components.registry.store import FolderStore

METRIC = "question_accuracy"
DOCUMENTS = 200


class World:
    """Publishes models whose share of right answers is chosen, and registers them as the flow does."""

    def __init__(self, store_uri: str, folder: Path) -> None:
        self.folder = folder
        self.client = MlflowClient(tracking_uri=store_uri)
        self.experiment = self.client.create_experiment("mmfs", artifact_location=(folder / "artifacts").as_uri())
        self.ledger = Ledger(FolderStore(folder / "ledger"))

    def publish(self, digest: str) -> str:
        """A READY logged model of this digest."""
        model = self.client.create_logged_model(self.experiment, name="mmfs", tags={DIGEST_TAG: digest})
        self.client.finalize_logged_model(model.model_id, "READY")
        return str(model.model_id)

    def origin(self, run: str, obstacle: str | None = None) -> Origin:
        """A run of that name."""
        mlflow_run = self.client.create_run(self.experiment, run_name=run)
        return Origin(run, mlflow_run.info.run_id, self.experiment, {"mmfs.git_sha": "abc"}, obstacle)

    def outs(self, digest: str, share: float, manifest: str = "m1") -> tuple[Path, Path]:
        """weights.json and evaluation folder of a model that answers this share of the documents."""
        place = self.folder / f"outs-{digest}-{manifest}"
        place.mkdir(exist_ok=True)
        weights = place / "weights.json"
        weights.write_text(json.dumps({"version": 1, "model_digest": digest, "files": []}))
        right = round(share * DOCUMENTS)
        rows = [{"id": f"s{n}", "document": f"d{n}", "scores": {METRIC: float(n < right)}} for n in range(DOCUMENTS)]
        (place / "manifest.json").write_text(json.dumps({"sha256": manifest}))
        (place / "metrics.json").write_text(json.dumps({METRIC: {"value": share, "low": 0.0, "high": 1.0, "n": DOCUMENTS}}))
        (place / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return weights, place

    def candidate(self, digest: str, share: float, manifest: str = "m1", run: str | None = None, obstacle: str | None = None) -> Candidate:
        """Publish, evaluate and register one model."""
        self.publish(digest)
        return register(self.client, "vqa", self.origin(run or f"run-{digest}", obstacle), *self.outs(digest, share, manifest))

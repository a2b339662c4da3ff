"""The registry as `mmfs models` lists it."""

from pathlib import Path

from mlflow.tracking import MlflowClient

from components.promote import Promotions
from components.registry.ledger import Ledger, Proposal
from components.registry.store import FolderStore
from flows.cli_models import listed


def test_versions_are_listed_with_the_last_decision_about_them(store_uri: str, tmp_path: Path) -> None:
    client, ledger = MlflowClient(tracking_uri=store_uri), Ledger(FolderStore(tmp_path))
    client.create_registered_model("mmfs-vqa")
    for number in (1, 2, 3):
        client.create_model_version("mmfs-vqa", f"file:///nowhere/{number}")
    for version, kind in ((1, "promoted"), (2, "rejected"), (2, "promoted")):
        ledger.append("mmfs-vqa", ledger.entries("mmfs-vqa"), Proposal(kind, version, "d", "r", ("why",), "ada"))
    assert [(one["version"], one["decision"]) for one in listed(Promotions(client, ledger))] == [(3, ""), (2, "promoted"), (1, "promoted")]

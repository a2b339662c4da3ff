"""A run as people see it in Prefect and MLflow, on the servers of `mmfs up`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from components.services.health import call

pytestmark = pytest.mark.timeout(1800)
PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def shown_run(browser: Any, local_stack: Any) -> dict[str, Any]:
    """A run of `mmfs run` while the servers are up; one stage is computed, the others are Cached."""
    done = local_stack.mmfs("run", "--preset", "smoke", "--tasks", "vqa", "--set", "evaluate.bootstrap=151", "--json")
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_prefect_shows_the_run_its_stages_and_its_pictures(page: Page, local_stack: Any, shown_run: dict[str, Any]) -> None:
    page.goto(f"{local_stack.urls['prefect']}/runs/flow-run/{shown_run['prefect_flow_run_id']}")
    expect(page.get_by_text(shown_run["run_id"]).first).to_be_visible(timeout=PATIENCE_MS)
    page.get_by_text("Task Runs", exact=True).first.click()
    for words in ("pretrain", "evaluate@vqa", "Cached"):
        expect(page.get_by_text(words).first).to_be_visible(timeout=PATIENCE_MS)
    page.get_by_text("Artifacts", exact=True).first.click()
    expect(page.get_by_text("picture-evaluate-vqa").first).to_be_visible(timeout=PATIENCE_MS)


def test_mlflow_shows_the_run_and_the_metrics_of_a_stage(page: Page, local_stack: Any, shown_run: dict[str, Any]) -> None:
    server = local_stack.urls["mlflow"]
    experiment = call(f"{server}/api/2.0/mlflow/runs/get?run_id={shown_run['mlflow_run_id']}")["run"]["info"]["experiment_id"]
    page.goto(f"{server}/#/experiments/{experiment}/runs/{shown_run['mlflow_run_id']}")
    expect(page.get_by_text(shown_run["run_id"]).first).to_be_visible(timeout=PATIENCE_MS)
    query = f"tags.`mlflow.parentRunId` = '{shown_run['mlflow_run_id']}' and attributes.run_name = 'pretrain'"
    stage = call(f"{server}/api/2.0/mlflow/runs/search", {"experiment_ids": [experiment], "filter": query})["runs"][0]["info"]["run_id"]
    page.goto(f"{server}/#/experiments/{experiment}/runs/{stage}/model-metrics")
    expect(page.get_by_text("text_loss").first).to_be_visible(timeout=PATIENCE_MS)
    expect(page.locator("svg.main-svg").first).to_be_visible(timeout=PATIENCE_MS)

"""Runs as people see them in Prefect and MLflow, on the servers of `mmfs up`."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from components.services.health import call

pytestmark = pytest.mark.timeout(1800)
PATIENCE_MS = 60_000


def test_prefect_shows_the_run_its_stages_and_its_pictures(page: Page, local_stack: Any, stack_runs: Any) -> None:
    run = stack_runs.scheduled
    page.goto(f"{local_stack.urls['prefect']}/runs/flow-run/{run['id']}")
    expect(page.get_by_text(run["name"]).first).to_be_visible(timeout=PATIENCE_MS)
    page.get_by_text("Task Runs", exact=True).first.click()
    for words in ("pretrain", "evaluate@vqa", "Cached"):
        expect(page.get_by_text(words).first).to_be_visible(timeout=PATIENCE_MS)
    page.get_by_text("Artifacts", exact=True).first.click()
    expect(page.get_by_text("picture-evaluate-vqa").first).to_be_visible(timeout=PATIENCE_MS)


def test_mlflow_shows_the_run_and_the_metrics_of_a_stage(page: Page, local_stack: Any, stack_runs: Any) -> None:
    server, shown_run = local_stack.urls["mlflow"], stack_runs.unchanged
    experiment = call(f"{server}/api/2.0/mlflow/runs/get?run_id={shown_run['mlflow_run_id']}")["run"]["info"]["experiment_id"]
    page.goto(f"{server}/#/experiments/{experiment}/runs/{shown_run['mlflow_run_id']}")
    expect(page.get_by_text(shown_run["run_id"]).first).to_be_visible(timeout=PATIENCE_MS)
    query = f"tags.`mlflow.parentRunId` = '{shown_run['mlflow_run_id']}' and attributes.run_name = 'pretrain'"
    stage = call(f"{server}/api/2.0/mlflow/runs/search", {"experiment_ids": [experiment], "filter": query})["runs"][0]["info"]["run_id"]
    page.goto(f"{server}/#/experiments/{experiment}/runs/{stage}/model-metrics")
    expect(page.get_by_text("text_loss").first).to_be_visible(timeout=PATIENCE_MS)
    expect(page.locator("svg.main-svg").first).to_be_visible(timeout=PATIENCE_MS)

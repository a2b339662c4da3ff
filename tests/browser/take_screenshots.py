"""Take the README's pictures of a finished run: `python tests/browser/take_screenshots.py [RUN]`, with `mmfs up` running.

A picture over 200 KiB is written with fewer colours.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from conftest import QUIET_FLAGS, chromium
from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "pictures"
LIMIT_BYTES = 200 * 1024
SETTLE_MS = 5_000
PATIENCE_MS = 60_000
CURVES = "pretrain"


def main(name: str = "latest") -> None:
    """Write docs/pictures/{prefect,mlflow,report}.png."""
    services = {one["name"]: one["url"] for one in mmfs("status")}
    run = next(one for one in mmfs("runs") if name in ("latest", one["run_id"]))
    experiment, child = stage_run(services["mlflow"], run["mlflow_run_id"])
    pages = {
        "prefect": (f"{services['prefect']}/runs/flow-run/{run['prefect_flow_run_id']}", run["run_id"]),
        "mlflow": (f"{services['mlflow']}/#/experiments/{experiment}/runs/{child}/model-metrics", "loss"),
        "report": (Path(run["result"]["report"]).as_uri(), run["run_id"]),
    }
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(QUIET_FLAGS))
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(PATIENCE_MS)
        for picture, (address, words) in pages.items():
            take(page, PICTURES / f"{picture}.png", address, words)
        browser.close()


def mmfs(command: str) -> Any:
    """What `mmfs COMMAND --json` says here."""
    return json.loads(
        subprocess.run([sys.executable, "-m", "flows.cli", command, "--json"], capture_output=True, text=True, check=True).stdout
    )


def stage_run(mlflow: str, parent: str) -> tuple[str, str]:
    """Experiment and id of the child run whose curves are shown."""
    from components.services.health import call

    experiment = call(f"{mlflow}/api/2.0/mlflow/runs/get?run_id={parent}")["run"]["info"]["experiment_id"]
    query = {"experiment_ids": [experiment], "filter": f"tags.`mlflow.parentRunId` = '{parent}' and attributes.run_name = '{CURVES}'"}
    return experiment, call(f"{mlflow}/api/2.0/mlflow/runs/search", query)["runs"][0]["info"]["run_id"]


def take(page: Page, target: Path, address: str, words: str) -> None:
    """One picture of a page that shows the words, in as many colours as the limit allows."""
    page.goto(address)
    page.get_by_text(words).first.wait_for()
    page.wait_for_timeout(SETTLE_MS)
    if (assistant := page.get_by_role("button", name="Close").first).is_visible():  # MLflow opens its chat beside the page
        assistant.click()
        page.wait_for_timeout(SETTLE_MS)
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(io.BytesIO(page.screenshot())) as shot:
        for colours in (256, 64, 16):
            shot.convert("RGB").quantize(colours).save(target, optimize=True)
            if target.stat().st_size <= LIMIT_BYTES:
                break
    print(f"{target.name}: {target.stat().st_size} bytes, {address}")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main(*sys.argv[1:])

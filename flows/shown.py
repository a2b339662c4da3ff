"""What the Prefect UI shows of a run: a progress bar and pictures per stage, and who the run is in MLflow and DVC."""

from __future__ import annotations

import base64
import logging
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_progress_artifact, update_progress_artifact

from components.run.events import Event
from flows.options import StageProgress, Watch

UPDATE_EVERY_S = 2.0
LOGGED_SHARE = 10.0
"""Per cent of a stage between two lines of its log."""
MAX_PICTURE_BYTES = 256 * 1024
_MEDIA = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}


class StageView:
    """Turns a stage's events into Prefect artifacts, lines of the task run's log and the command's progress bars."""

    def __init__(
        self, stage: str, watch: Watch, log: logging.Logger | logging.LoggerAdapter[Any], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stage = stage
        self._watch = watch
        self._log = log
        self._clock = clock
        self._bar: UUID | None = None
        self._shown_at = 0.0
        self._logged = 0.0
        self._latest: Event | None = None

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event.name:
            case "started":
                self._watch(StageProgress(self._stage, "Running"))
                self._log.info("%s: started under key %s", self._stage, event.values["key"][:12])
            case "waiting":
                self._watch(StageProgress(self._stage, "Running", message=event.values["message"]))
                self._log.info("%s", event.values["message"])
            case "progress":
                self._progress(event)
            case "artifact" if event.values["kind"] == "image":
                self._picture(Path(event.values["path"]), event.values["caption"])

    def close(self) -> None:
        """Show the progress that came too soon after the one before it."""
        if self._latest is not None:
            self._update(self._latest)

    def _progress(self, event: Event) -> None:
        values = event.values
        metrics = {name: float(value) for name, value in values["metrics"].items()}
        self._watch(StageProgress(self._stage, "Running", values["done"], values["total"], values["unit"], metrics))
        share = _share(event)
        if share >= self._logged + LOGGED_SHARE:
            self._logged = share
            told = "".join(f", {name} {value:.4g}" for name, value in metrics.items())
            self._log.info("%s: %g of %g %s%s", self._stage, values["done"], values["total"], values["unit"], told)
        self._latest = event
        if self._clock() - self._shown_at >= UPDATE_EVERY_S:
            self._update(event)

    def _update(self, event: Event) -> None:
        self._latest, self._shown_at = None, self._clock()
        share = _share(event)
        if self._bar is None:
            description = f"{self._stage}, {event.values['unit']}"
            self._bar = cast(UUID, create_progress_artifact(share, key=f"progress-{artifact_key(self._stage)}", description=description))
        else:
            update_progress_artifact(self._bar, share)

    def _picture(self, path: Path, caption: str) -> None:
        media = _MEDIA.get(path.suffix.lower())
        try:
            data = path.read_bytes() if media else b""
        except OSError:
            return
        if data and len(data) <= MAX_PICTURE_BYTES:
            picture = f"![{caption or path.stem}](data:{media};base64,{base64.b64encode(data).decode()})"
            create_markdown_artifact(
                f"{caption}\n\n{picture}\n", key=f"picture-{artifact_key(self._stage)}", description=caption or path.name
            )


def _share(progress: Event) -> float:
    """Per cent done; 0 where the total is unknown."""
    return 100.0 * min(1.0, progress.values["done"] / progress.values["total"]) if progress.values["total"] else 0.0


def show_identities(run_id: str, names: Mapping[str, str], links: Mapping[str, str]) -> None:
    """A table of the run's names in every tool, and a link per page that shows it."""
    rows = "".join(f"| {tool} | `{name}` |\n" for tool, name in names.items())
    create_markdown_artifact(
        f"# Run {run_id}\n\n| tool | name |\n| --- | --- |\n{rows}", key="identities", description=f"names of run {run_id}"
    )
    for title, address in links.items():
        create_link_artifact(address, link_text=title, key=artifact_key(title), description=f"{title} of run {run_id}")


def artifact_key(name: str) -> str:
    """A name as Prefect allows it for an artifact: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")

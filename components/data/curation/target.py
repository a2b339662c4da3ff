"""The target of curation: documents in our own form, their pictures, the manifest, what fell and why. Written whole, from the units."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from components.curation_params import CurationParams
from components.data.curation.measures import Instruments
from components.data.curation.samples import IMAGES, sample_of
from components.data.curation.thresholds import Thresholds
from components.data.curation.units import Cost, Cut, ToldVideo, Unit
from components.data.documents import CorpusError
from components.data.sources.folder import DOCUMENTS_FILE
from components.data.sources.source import Rejected
from components.run.filetree import link_tree, whole_folder

VERSION = 1
HEAD_FILE, MANIFEST_FILE, METRICS_FILE = "curation.json", "manifest.jsonl", "metrics.json"
WAITING_FILE, QUARANTINE_FILE = "waiting.jsonl", "quarantine.jsonl"
_NOT_BUILT = ["route B: multi-step in-context generation", "route C: regeneration of pictures"]


class Target:
    """A folder that curation writes. Documents that still wait for texts lie in waiting.jsonl, where no stage reads them."""

    def __init__(self, folder: Path, params: CurationParams) -> None:
        self.folder, self._params = folder, params

    def check_ours(self) -> None:
        """Raises CorpusError for a folder that is there and was not written by curation: it would be replaced."""
        if self.folder.exists() and not (self.folder / HEAD_FILE).is_file() and any(self.folder.iterdir()):
            raise CorpusError(f"{self.folder} exists and holds no {HEAD_FILE}; name a new folder")

    def write(
        self,
        cuts: Sequence[tuple[Unit, Cut]],
        rejected: Iterable[Rejected],
        thresholds: Thresholds,
        instruments: Instruments,
        failed: dict[str, str],
    ) -> dict[str, float]:
        """Replace the target; its metrics."""
        quarantine = [*rejected, *(Rejected(made.video, made.rejected) for _, made in cuts if made.rejected)]
        quarantine += [Rejected(name, f"its texts are missing: {reason}") for name, reason in failed.items()]
        counts: Counter[str] = Counter(videos=len(cuts), quarantined=len(quarantine))
        writers: set[tuple[str, str]] = set()
        with whole_folder(self.folder) as fresh:
            with (
                (fresh / DOCUMENTS_FILE).open("w", encoding="utf-8") as documents,
                (fresh / WAITING_FILE).open("w", encoding="utf-8") as waiting,
                (fresh / MANIFEST_FILE).open("w", encoding="utf-8") as manifest,
            ):
                for unit, made in cuts:
                    self._count(made, counts)
                    told = unit.told(made.key)
                    writers |= {(told.captioner, told.captioner_digest)} if told else set()
                    used = self._write_video(unit, made, told, unit.cost(), documents, waiting, manifest, counts)
                    for file in used:
                        (fresh / IMAGES / unit.name).mkdir(parents=True, exist_ok=True)
                        link_tree(unit.folder / file, fresh / IMAGES / unit.name / file)
            metrics = {name: float(value) for name, value in sorted(counts.items())}
            head = {
                "version": VERSION,
                "params": self._params.model_dump(mode="json"),
                "instruments": instruments.names(),
                "unavailable": instruments.unavailable(),
                "not_built": _NOT_BUILT,
                "thresholds": thresholds.model_dump(mode="json"),
                "captioners": sorted(map(list, writers)),
            }
            _write_json(fresh / HEAD_FILE, head)
            _write_json(fresh / METRICS_FILE, metrics)
            (fresh / QUARANTINE_FILE).write_text("".join(json.dumps(vars(one)) + "\n" for one in quarantine), encoding="utf-8")
        return metrics

    def _write_video(
        self,
        unit: Unit,
        made: Cut,
        told: ToldVideo | None,
        cost: Cost,
        documents: TextIO,
        waiting: TextIO,
        manifest: TextIO,
        counts: Counter[str],
    ) -> list[str]:
        """Write what stays of a video; the files of its frames that are used."""
        used: set[str] = set()
        for window in made.windows:
            if told is not None:
                sample = told.samples[window]
                counts["dropped_verdict"] += len(made.windows[window]) - len(sample.kept) - sample.unread_verdicts
                counts["unread_verdicts"] += sample.unread_verdicts
                if sample.problem or sample.fell_by:
                    counts["samples_without_texts" if sample.problem else f"samples_dropped_{sample.fell_by}"] += 1
                    continue
            document, record = sample_of(made, window, unit.name, told, cost, self._params)
            (documents if told else waiting).write(document.model_dump_json() + "\n")
            manifest.write(record.model_dump_json() + "\n")
            counts["documents" if told else "waiting"] += 1
            counts["images"] += len(document.images)
            used |= {Path(item.path).name for item in document.images}
        return sorted(used)

    def _count(self, made: Cut, counts: Counter[str]) -> None:
        counts["windows"] += len(made.windows) + made.dropped.get("window", 0)
        counts["frames_read"] += int(made.reading.get("frames", 0))
        counts["frames_corrupt"] += int(made.reading.get("corrupt_frames", 0))
        for field in ("cut_short", "frames_left", "windows_left"):
            counts[f"videos_{field}"] += int(made.reading.get(field, 0))
        for measure in ("sharpness", "quality", "flow_mean", "flow_variance", "distance"):
            counts[f"dropped_{measure}"] += made.dropped.get(measure, 0)
        counts["windows_dropped"] += made.dropped.get("window", 0)
        for name in ("documents", "waiting", "images", "dropped_verdict", "samples_dropped_judge"):
            counts.setdefault(name, 0)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")

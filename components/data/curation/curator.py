"""ILLUME-X's route A over a folder of videos: frames, filters, texts; a video is done once, and the target is written whole."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from components.curation_params import CurationParams
from components.data.captioning.corpus import Scores
from components.data.curation import prompts
from components.data.curation.cutting import cut, pilot_values
from components.data.curation.measures import Instruments
from components.data.curation.target import Target
from components.data.curation.telling import Cost as Spent
from components.data.curation.telling import Teller
from components.data.curation.thresholds import Thresholds, calibrate
from components.data.curation.units import Cut, Sample, ToldVideo, Unit, key_of
from components.data.curation.video import SUFFIXES
from components.data.documents import CorpusError
from components.data.sources.source import Rejected
from components.run.failures import FailureClass, StageError
from components.run.lease import Lease
from components.tracking.weights import file_sha256

_FAILED_IN_A_ROW = 3
Progress = Callable[[str, int, int], None]


@dataclass
class Videos:
    """The distinct videos of a folder: (name, path, sha256), and what is none."""

    found: list[tuple[str, Path, str]] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)


class Curator:
    """Curates `videos` into `target`; what is done of each video lies in `TARGET.units` beside it and is not done again."""

    def __init__(
        self,
        videos: Path,
        target: Path,
        params: CurationParams,
        instruments: Instruments,
        teller: Teller | None = None,
        alignment: Scores | None = None,
    ) -> None:
        self._videos, self._params, self._instruments = videos, params, instruments
        self._teller, self._alignment = teller, alignment
        self._target = Target(target, params)
        self._root = target.with_name(f"{target.name}.units")

    def run(self, tell: Progress) -> dict[str, float]:
        """Do what is missing and write the target; its metrics. Raises CorpusError, and StageError where no texts can be had at all."""
        self._target.check_ours()
        lease = Lease(self._root / ".lease")
        if not lease.try_acquire():
            raise CorpusError(f"another process curates into {self._target.folder}; wait for it to end")
        try:
            return self._run(tell)
        finally:
            lease.release()

    def _run(self, tell: Progress) -> dict[str, float]:
        videos = list_videos(self._videos)
        if not videos.found:
            raise CorpusError(f"{self._videos} holds no video; files with {', '.join(SUFFIXES)} are looked for")
        thresholds = self._thresholds(videos)
        key = key_of(self._params.video.model_dump(mode="json"), self._params.min_frames, thresholds.model_dump(mode="json"))
        failed: dict[str, str] = {}
        cuts: list[tuple[Unit, Cut]] = []
        in_a_row = 0
        for number, (name, path, sha256) in enumerate(videos.found, 1):
            unit = Unit(self._root, sha256)
            made = unit.cut(key) or cut(name, path, sha256, key, self._root, self._params, self._instruments, thresholds)
            cuts.append((unit, made))
            if self._teller is not None and made.windows:
                problem = self._tell(unit, made, self._teller)
                in_a_row = in_a_row + 1 if problem else 0
                if problem:
                    failed[name] = problem
                if in_a_row == _FAILED_IN_A_ROW:
                    message = f"{in_a_row} videos in a row got no texts; the last: {problem}"
                    raise StageError(FailureClass.INFRASTRUCTURE, message, "mend it and run the same command to go on")
            tell(name, number, len(videos.found))
        return self._target.write(cuts, videos.rejected, thresholds, self._instruments, failed)

    def _thresholds(self, videos: Videos) -> Thresholds:
        """Those of the units folder where they were made for the same parameters and instruments: a video more changes no other one."""
        measured = {name: getattr(self._params, name).model_dump() for name in self._instruments.names()}
        key = key_of(self._params.video.model_dump(mode="json"), measured, self._instruments.names())
        path = self._root / "thresholds.json"
        found = Thresholds.read(path)
        if found is None or found.key != key:
            values, used = pilot_values([(sha256, own) for _, own, sha256 in videos.found], self._root, self._params, self._instruments)
            found = calibrate(values, self._params, self._instruments.names(), used, key)
            found.write(path)
        return found

    def _tell(self, unit: Unit, made: Cut, teller: Teller) -> str:
        """Keep the texts of a video's windows; or the reason why there are none to keep."""
        levels = self._params.captions.model_dump(mode="json", exclude={"local", "endpoint"})
        key = key_of(made.key, teller.digest, levels, prompts.VERSION, self._alignment.digest if self._alignment else None)
        told = unit.told(made.key)
        if told is not None and told.key == key:
            return ""
        cost = unit.cost().model_copy(update={"samples": {}})
        samples: dict[str, Sample] = {}
        for window in made.windows:
            spent = Spent()
            samples[window] = self._sample(unit, made, window, teller, spent)
            cost.samples[window] = (round(spent.seconds, 6), spent.usd)
        problems = [sample.problem for sample in samples.values() if sample.problem]
        if len(problems) > self._params.captions.max_failed_rate * len(samples):
            reason, count = Counter(problems).most_common(1)[0]
            return f"{len(problems)} of {len(samples)} samples have no usable texts; {count} times: {reason}"
        result = ToldVideo(
            key=key,
            cut_key=made.key,
            captioner=teller.name,
            captioner_digest=teller.digest,
            converses=teller.converses,
            samples=samples,
        )
        unit.write(cost, result)
        return ""

    def _sample(self, unit: Unit, made: Cut, window: str, teller: Teller, spent: Spent) -> Sample:
        frames = [(unit.folder / frame.file).read_bytes() for frame in made.windows[window]]
        verdicts = teller.verdicts(frames, spent)
        unread = sum(verdict is None for verdict in verdicts)
        kept = tuple(number for number, verdict in enumerate(verdicts) if verdict)
        if len(kept) < self._params.min_frames:
            problem = "the verdicts cannot be read" if unread else ""
            return Sample(kept=kept, fell_by="" if unread else "verdict", problem=problem, unread_verdicts=unread)
        chosen = [frames[number] for number in kept]
        told = teller.tell(chosen, spent)
        if told.texts is None:
            return Sample(kept=kept, rounds=tuple(told.rounds), problem=told.problem, unread_verdicts=unread)
        began = time.perf_counter()
        scores = self._alignment.scores(told.texts.frames, chosen) if self._alignment else []
        spent.seconds += time.perf_counter() - began
        return Sample(
            kept=kept,
            whole=told.texts.whole,
            frames=tuple(told.texts.frames),
            changes=tuple(told.texts.changes),
            rounds=tuple(told.rounds),
            judged=told.judged,
            alignment=round(sum(scores) / len(scores), 4) if scores else None,
            fell_by=told.fell_by,
            unread_verdicts=unread,
        )


def list_videos(folder: Path) -> Videos:
    """The videos below a folder by name, each content once. Links are not followed; other files are left alone."""
    videos, seen = Videos(), dict[str, str]()
    for name, path in _named(folder):
        if path.is_symlink() or not path.is_file():
            videos.rejected.append(Rejected(name, "a link or a special file"))
            continue
        sha256 = file_sha256(path)
        if (twin := seen.setdefault(sha256, name)) != name:
            videos.rejected.append(Rejected(name, f"the same bytes as {twin}"))
            continue
        videos.found.append((name, path, sha256))
    return videos


def _named(folder: Path) -> Iterator[tuple[str, Path]]:
    paths = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not path.is_dir())
    names = ((path.relative_to(folder).as_posix().encode("utf-8", "backslashreplace").decode(), path) for path in paths)
    yield from sorted(names)

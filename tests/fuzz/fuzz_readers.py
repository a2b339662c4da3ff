"""Fuzz one reader guided by coverage, for hours: `python tests/fuzz/fuzz_readers.py FORMAT [libFuzzer's options]`.

Needs `pip install atheris`. Inputs that reach new code are kept in .mmfs/fuzz/FORMAT, so the next call goes on from there; what crashes or
hangs a reader is written to the current folder as libFuzzer does, and the same call with that file's path repeats it.
Example: `python tests/fuzz/fuzz_readers.py mmc4 -max_total_time=3600`.
"""

from __future__ import annotations

import sys
import tempfile
from importlib import import_module
from pathlib import Path

import atheris

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "components")]
FORMAT = sys.argv.pop(1) if len(sys.argv) > 1 else ""
with atheris.instrument_imports(include=["components.data"]):
    from components.data.documents import CorpusError
    from components.data.sources.formats import FORMATS, open_source
    from components.data.sources.source import Accepted, Limits, Rejected

    if FORMAT not in FORMATS:
        raise SystemExit(f"{__doc__}\nFormats: {', '.join(sorted(FORMATS))}")
    import_module(FORMATS[FORMAT].partition(":")[0])

from corpus_seeds import SEEDS  # noqa: E402 (what is fuzzed must be imported first)

LIMITS = Limits(image_pixels=1_000_000, text_bytes=100_000, images=100)


def main() -> None:
    """The first byte of an input chooses the file of the seed corpus that the rest takes the place of."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    corpus = SEEDS[FORMAT](folder)
    files = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    kept = ROOT / ".mmfs" / "fuzz" / FORMAT
    kept.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(files.values()):
        (kept / f"seed-{number}").write_bytes(bytes([number]) + data)

    def one_input(data: bytes) -> None:
        path = list(files)[data[0] % len(files)] if data else next(iter(files))
        path.write_bytes(data[1:])
        try:
            source = open_source(corpus, folder, LIMITS)
            found = [one for unit in source.units() for one in source.documents(unit)]
            assert all(isinstance(one, Accepted | Rejected) for one in found)
        except CorpusError:
            pass
        finally:
            path.write_bytes(files[path])

    repeated = any(Path(argument).is_file() for argument in sys.argv[1:])
    folders = [] if repeated else [str(kept)]
    atheris.Setup([sys.argv[0], "-timeout=30", "-rss_limit_mb=2048", *folders, *sys.argv[1:]], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

"""Keeps the code dependencies in dvc.yaml equal to what each stage imports: `python -m components.run.codedeps [--write]`.

A comment `# code of MODULE...` in a stage's deps names the modules the stage runs: its supervisor and the rank program it starts. The
lines below it are the files of everything those import, C++ beside it too, and are rewritten. What reads corpora imports their formats by
name: where the registry of formats is among the imports, so is every format. Needs grimp, a development dependency.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import grimp

from components.data.sources import formats

PACKAGES = ("components", "model", "kernels")
_MARK = re.compile(r"^(?P<indent> +)# code of (?P<modules>[\w. ]+)$")
_COMPILED = (".cpp", ".h")
Closure = Callable[[Sequence[str]], list[str]]


def rewrite(text: str, closure: Closure) -> str:
    """dvc.yaml with every code list replaced by the closure of its modules."""
    lines: list[str] = []
    replaced: str | None = None
    for line in text.splitlines():
        if replaced is not None and line.startswith(replaced) and line.endswith((".py", *_COMPILED)):
            continue
        replaced = None
        lines.append(line)
        if mark := _MARK.match(line):
            replaced = mark["indent"] + "- "
            lines += [replaced + file for file in closure(mark["modules"].split())]
    return "\n".join(lines) + "\n"


def import_closure(root: Path) -> Closure:
    """A function from modules to the source files below `root` that importing them runs; empty package files are left out."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)

    def closure(modules: Sequence[str]) -> list[str]:
        imported = _upstream(graph, modules)
        if formats.__name__ in imported:
            imported |= _upstream(graph, [reader.partition(":")[0] for reader in formats.FORMATS.values()])
        packages = {".".join(parts[:end]) for parts in (name.split(".") for name in imported) for end in range(1, len(parts))}
        files = {_file(root, name) for name in imported | packages}
        # What a package compiles lies beside its modules.
        files |= {file for folder in {file.parent for file in files} for file in folder.iterdir() if file.suffix in _COMPILED}
        return sorted(file.relative_to(root).as_posix() for file in files if file.stat().st_size)

    return closure


def _upstream(graph: grimp.ImportGraph, modules: Sequence[str]) -> set[str]:
    return {name for module in modules for name in (module, *graph.find_upstream_modules(module))}


def _file(root: Path, module: str) -> Path:
    path = root.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def main(arguments: list[str]) -> int:
    """Exit status 1 when dvc.yaml differs and is not written."""
    parser = argparse.ArgumentParser(prog="python -m components.run.codedeps", description=__doc__)
    parser.add_argument("--write", action="store_true", help="rewrite dvc.yaml")
    write = parser.parse_args(arguments).write
    file = Path("dvc.yaml")
    text = file.read_text(encoding="utf-8")
    wanted = rewrite(text, import_closure(Path.cwd()))
    if wanted == text:
        return 0
    if write:
        file.write_text(wanted, encoding="utf-8")
        return 0
    sys.stderr.write("dvc.yaml does not list the code its stages import; run python -m components.run.codedeps --write\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

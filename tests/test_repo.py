"""What holds for the repository as a whole: sizes, names, pins, addresses, and that the pages say what the source does."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
import runpy
import subprocess
import tomllib
from collections import Counter
from pathlib import Path

import pytest
import yaml

from components.settings import quiet_environment

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("kernels", "model", "components", "flows")
LIBRARIES = {
    "boto3",
    "deepspeed",
    "diffusers",
    "dvc",
    "lightning",
    "mlflow",
    "prefect",
    "pydantic",
    "rich",
    "torch",
    "transformers",
    "typer",
}
SHAPELESS = {"utils", "util", "helpers", "helper", "common", "misc"}
PREFECT_FILES = [ROOT / "prefect.yaml", ROOT / "infra" / "prefect.yaml"]


def tracked() -> list[Path]:
    """The files git knows and the ones it would add."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [path for path in map(ROOT.joinpath, sorted(set(listed))) if path.is_file()]


FILES = tracked()
SOURCES = [path for path in FILES if path.suffix == ".py"]
PAGES = [path for path in FILES if path.suffix == ".md"]
TESTS = [path for path in SOURCES if path.is_relative_to(ROOT / "tests")]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_source_files_are_small() -> None:
    assert not [name(path) for path in SOURCES if len(path.read_text(encoding="utf-8").splitlines()) > 500]


def test_source_files_are_named_for_what_they_hold() -> None:
    assert not [name(path) for path in SOURCES if path.stem in SHAPELESS]
    assert not [name(path) for path in SOURCES if path.stem in LIBRARIES], "a file with a library's name hides it from file entry points"


def test_tests_are_no_packages_and_have_names_of_their_own() -> None:
    assert not [path for path in TESTS if path.name == "__init__.py"]
    counts = Counter(path.name for path in TESTS if path.name != "conftest.py")
    assert not [test for test, count in counts.items() if count > 1]


@pytest.mark.parametrize("package", PACKAGES)
def test_our_packages_belong_to_us_alone(package: str) -> None:
    owners = importlib.metadata.packages_distributions().get(package, [])
    assert set(owners) == {"mmfs"}, f"`{package}` is also installed by {set(owners) - {'mmfs'}}; uninstall that distribution"
    specification = importlib.util.find_spec(package)
    assert specification and specification.origin == str(ROOT / package / "__init__.py")


@pytest.mark.parametrize("path", PREFECT_FILES, ids=name)
def test_prefect_entry_points_are_module_paths_that_exist(path: Path) -> None:
    for deployment in yaml.safe_load(path.read_text())["deployments"]:
        entrypoint = deployment["entrypoint"]
        assert ".py" not in entrypoint, f"{entrypoint}: a file entry point loads the flow under another module name"
        module, _, function = entrypoint.rpartition(".")
        specification = importlib.util.find_spec(module)
        assert specification and specification.origin, entrypoint
        body = ast.parse(Path(specification.origin).read_text(encoding="utf-8")).body
        defined = {node.name for node in body if isinstance(node, ast.FunctionDef)}
        assigned = {ast.unparse(target) for node in body if isinstance(node, ast.Assign) for target in node.targets}
        assert function in defined | assigned, entrypoint


def test_the_lock_pins_every_dependency_and_names_no_index() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text and "--" not in text
    pins = dict(line.split("==") for line in text.splitlines() if line and not line.startswith("#"))
    assert "+" not in pins["torch"], "a local suffix is not on the package index"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for wanted in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        package = re.split(r"[\[<>=]", wanted)[0]
        assert package.lower() in {pinned.lower().replace("_", "-") for pinned in pins}, package


def test_the_parameter_page_is_up_to_date() -> None:
    generated = runpy.run_path(str(ROOT / "docs" / "generate.py"))["page"]()
    assert (ROOT / "docs" / "params.md").read_text(encoding="utf-8") == generated, "run `make docs`"
    undescribed = [line for line in generated.splitlines() if line.endswith("|  |")]
    assert not undescribed


def test_pages_name_every_stage_and_every_make_target() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]:
        assert re.search(rf"`{stage}(`|@)", text), f"no page explains the stage `{stage}`"
    for target in re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE):
        assert f"make {target}" in text, f"no page mentions `make {target}`"


def test_links_between_pages_lead_somewhere() -> None:
    links = [(page, target) for page in PAGES for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))]
    assert not [f"{name(page)} to {target}" for page, target in links if "://" not in target and not (page.parent / target).exists()]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150


def test_the_changelog_is_open() -> None:
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_no_file_names_a_folder_of_one_machine() -> None:
    texts = {path: path.read_bytes().decode(errors="ignore") for path in FILES if path != Path(__file__)}
    personal = re.compile(r"/home/(?!mmfs\b)\w+|/Users/\w+|/root/|/opt/wheels")
    assert not {name(path): found for path, text in texts.items() if (found := personal.findall(text))}


@pytest.mark.parametrize("path", [ROOT / "infra" / "compose.yaml", ROOT / "infra" / "k8s" / "base" / "config.yaml"], ids=name)
def test_servers_are_as_quiet_as_the_laptop(path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    declared = document.get("x-quiet") or document["data"]
    for variable, value in quiet_environment().items():
        assert declared.get(variable) == value, variable

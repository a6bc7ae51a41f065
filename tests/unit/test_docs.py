"""The documents agree with the code, and with each other."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
LONGEST_LINE = 126
_LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """`docs/generate.py`, which is a script and no part of a package."""
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_the_tables_are_what_the_code_says(path: Path, generate: ModuleType) -> None:
    """A table that the code has overtaken fails here."""
    text = path.read_text()
    assert generate.generated(text) == text, "run: .venv/bin/python docs/generate.py"


def test_every_table_is_published(generate: ModuleType) -> None:
    """No table is generated for nobody, and each stands in one place."""
    published = [mark[1] for path in DOCUMENTS for mark in generate.MARKS.findall(path.read_text())]
    assert sorted(published) == sorted(generate.TABLES)


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_every_link_leads_somewhere(path: Path) -> None:
    """A link within the repository names a file that is there."""
    missing = [target for target in _LINK.findall(path.read_text()) if not (path.parent / target).exists()]
    assert missing == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_lines_are_short_enough_to_read(path: Path, generate: ModuleType) -> None:
    """Whatever was written by hand fits into the width of the code."""
    by_hand = generate.MARKS.sub("", path.read_text()).splitlines()
    assert [line for line in by_hand if len(line) > LONGEST_LINE] == []


def test_every_dependency_is_explained() -> None:
    """Whoever adds a dependency says what for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    wanted += [each for extra in project["project"]["optional-dependencies"].values() for each in extra]
    rows = [line.split("|")[1] for line in (ROOT / "docs" / "dependencies.md").read_text().splitlines() if "|" in line]
    explained = {name.strip() for row in rows for name in row.split(",")}
    assert {re.split(r"[<>=\[]", each)[0] for each in wanted} - explained == set()

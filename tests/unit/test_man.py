"""The manual pages: one for each command, whole, and without a warning."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest

from support.tools import skipping_forbidden
from vmferry.cli.__main__ import main
from vmferry.flags import FLAGS
from vmferry.params import PARAMETERS

SCRIPT = Path(__file__).parents[2] / "scripts" / "generate_man.py"


@pytest.fixture(scope="module")
def manual() -> ModuleType:
    """`scripts/generate_man.py`, which is a script and no part of a package."""
    spec = importlib.util.spec_from_file_location("generate_man", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


def rendered(page: str) -> str:
    """The page as a terminal shows it; a warning of groff is an error."""
    groff = shutil.which("groff")
    if groff is None:
        if skipping_forbidden():
            pytest.fail("there is no groff here")
        pytest.skip("there is no groff here")
    command = (groff, "-ww", "-man", "-Tascii", "-P-c", "-rLL=2000n", "-rHY=0")
    done = subprocess.run(command, input=page, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return re.sub(".\b", "", done.stdout)  # bold is struck twice


def leaves(command: click.Command, name: str) -> list[str]:
    """Every command below one, itself included."""
    context = click.Context(command)
    keys = command.list_commands(context) if isinstance(command, click.Group) else ()
    return [name, *(each for key in keys for each in leaves(command.get_command(context, key), f"{name}-{key}"))]


def test_every_command_has_a_page_and_every_page_renders(manual: ModuleType) -> None:
    """Those of the program, of the daemon and of its configuration."""
    pages = manual.pages()
    assert set(pages) == {f"{name}.1" for name in leaves(main, "vmferry")} | {"vmferryd.8", "vmferryd.toml.5"}
    for name, page in pages.items():
        text = rendered(page)
        for heading in ("NAME", "DESCRIPTION", "SEE ALSO"):
            assert heading in text, name


def test_the_page_of_migrate_has_every_option(manual: ModuleType) -> None:
    """Each flag and each parameter, with what it means, word for word."""
    text = " ".join(rendered(manual.pages()["vmferry-migrate.1"]).split())
    for row in (*FLAGS, *PARAMETERS):
        assert row.option in text
        assert row.meaning in text


def test_the_page_of_the_configuration_has_every_key(manual: ModuleType) -> None:
    """As the documents do."""
    text = rendered(manual.pages()["vmferryd.toml.5"])
    keys = [row[0] for row in manual.generate.configuration_rows()]
    assert len(keys) > 20
    assert [key for key in keys if key not in text] == []


def test_the_first_page_has_exit_statuses_and_environment(manual: ModuleType) -> None:
    """Whoever writes scripts reads no further."""
    text = rendered(manual.pages()["vmferry.1"])
    for word in ("EXIT STATUS", "in doubt", "VMFERRY_URI", "VMFERRY_CERTIFICATES", "VMFERRY_BOUNDS", "migrate-setspeed"):
        assert word in text

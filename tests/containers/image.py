"""Building the image where no registry of images is reached: its base is made of the distribution's packages."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from containers.docker import BUILD_S, ROOT, Docker
from support.packages import mirror

NAME = "vmferry"
_AUTHORITIES = Path("/usr/local/share/ca-certificates")
_PIP = ("index-url", "extra-index-url", "trusted-host")


def build(docker: Docker) -> dict[str, str]:
    """The image is there; answers the build arguments that it was given, which are this machine's own affair."""
    _base(docker)
    given = dict(_arguments())
    words = [word for name, value in given.items() for word in ("--build-arg", f"{name}={value}")]
    docker("build", "--network", "host", "--rm", "--tag", NAME, *words, ".", timeout_s=BUILD_S)
    return given


def _base(docker: Docker) -> None:
    """The image that the Dockerfile begins with is there. It knows no mirror."""
    found = re.search(r"^FROM (\S+:(\w+)-slim)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert found, "the Dockerfile names another base than Debian's"
    with tempfile.TemporaryDirectory(dir=docker.directory) as folder:
        tree = Path(folder)
        docker.ran(("debootstrap", "--variant=minbase", found[2], str(tree), mirror()), BUILD_S)
        (tree / "etc/apt/sources.list").write_text("")
        with subprocess.Popen(("tar", "-C", folder, "-c", "."), stdout=subprocess.PIPE) as packing:
            words = ("docker", "import", "-", found[1])
            subprocess.run(words, stdin=packing.stdout, env=docker.environment, check=True, stdout=subprocess.DEVNULL)


def _arguments() -> Iterator[tuple[str, str]]:
    """How this machine reaches its package sources, as far as a container can do the same."""
    yield "DEBIAN_MIRROR", mirror()
    if authorities := "".join(path.read_text() for path in sorted(_AUTHORITIES.glob("*.crt"))):
        yield "CA_CERTIFICATES", authorities
    command = (sys.executable, "-m", "pip", "config", "list")
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name, value in re.findall(r"^\S+?\.([a-z-]+)='(.*)'$", listed, re.MULTILINE):
        if name in _PIP and "file:" not in value:
            yield f"PIP_{name.upper().replace('-', '_')}", value

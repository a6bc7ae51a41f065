"""Plays what somebody does who has just cloned the repository, and writes it down: `docs/first-ten-minutes.md`.

It runs the commands below one after the other in one shell, from the root of a clone, and keeps what they say. As root, for a
Debian guest is made. Nothing is left of it afterwards but the page.
"""  # noqa: INP001 - a script, not a package

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path("/tmp/ferry")  # noqa: S108 - what the page says
PAGE = Path("docs/first-ten-minutes.md")
LONGEST = 30
"""So many lines of an answer are kept."""

WIDEST = 120
END = "=== end of a step ==="


@dataclass(frozen=True)
class Step:
    """A sentence, and the commands that follow it."""

    says: str
    commands: str


STEPS = (
    Step("The demo: two daemons, a guest that checks itself, there and back.", "make demo"),
    Step(
        "Two daemons of our own.",
        """export PATH=$PWD/.venv/bin:$PATH
mkdir -p /tmp/ferry
for host in a b; do
  vmferryd --listen vmferry+unix:///tmp/ferry/$host.sock --host-name host-$host \\
    --state-directory /tmp/ferry/$host/state --run-directory /tmp/ferry/$host/run 2>/tmp/ferry/$host.log &
done
for host in a b; do until vmferry -c vmferry+unix:///tmp/ferry/$host.sock version; do sleep 1; done; done 2>/dev/null
export VMFERRY_URI=vmferry+unix:///tmp/ferry/a.sock""",
    ),
    Step(
        "A Debian guest with a disk.",
        """examples/debian/make-guest deb /tmp/ferry
vmferry define /tmp/ferry/deb.xml
vmferry start deb
until grep -q 'login:' /tmp/ferry/deb.console; do sleep 1; done; tail -n 1 /tmp/ferry/deb.console; echo""",
    ),
    Step(
        "May it move? Two things are wrong, on purpose: host-b has another guest of that name, and the disk is on a file "
        "system that host-b is not known to share. Both are said at once.",
        """sed 's/512/64/' /tmp/ferry/deb.xml >/tmp/ferry/other.xml
vmferry -c vmferry+unix:///tmp/ferry/b.sock define /tmp/ferry/other.xml
vmferry check --live deb vmferry+unix:///tmp/ferry/b.sock""",
    ),
    Step(
        "Both are mended: the other guest goes, and since both daemons are on this machine, they do share the disk.",
        """vmferry -c vmferry+unix:///tmp/ferry/b.sock undefine deb
vmferry check --live --unsafe deb vmferry+unix:///tmp/ferry/b.sock""",
    ),
    Step("So it moves.", "vmferry migrate --live --unsafe deb vmferry+unix:///tmp/ferry/b.sock"),
    Step(
        "What happened, on both hosts; `--html FILE` draws it.",
        """vmferry report deb
vmferry report deb --html /tmp/ferry/report.html
vmferry where deb""",
    ),
    Step(
        "And away with it.",
        """vmferry -c vmferry+unix:///tmp/ferry/b.sock destroy deb
vmferry undefine deb
kill %1 %2; wait
rm -r /tmp/ferry""",
    ),
)

HEAD = """# The first ten minutes

What somebody sees who has just cloned vmferry, on a machine of two cores without KVM: played by `make first-ten-minutes`
as root, which wrote this page. It took {took}, {demo} of them for the demo, and {guest} until Debian had been
fetched and had booted. The virtual environment was there already; the first `make` makes it, in about a minute.

<!-- played -->
"""


SHOWN = ("2 problems: deb would not be moved", "nothing speaks against moving deb", "deb from host-a to host-b: completed")
"""What is said on the way when the planted problems are found, and the guest moves."""


def main() -> int:
    """The page is written; 1, and the page stays as it was, when it would not show what it is there to show."""
    if FOLDER.exists():
        sys.stderr.write(f"{FOLDER} is there already: remove it first\n")
        return 1
    # As if nobody had typed `make` to come here: it would name its folder.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    pipe, both = subprocess.PIPE, subprocess.STDOUT
    shell = subprocess.Popen(["/bin/bash"], stdin=pipe, stdout=pipe, stderr=both, text=True, env=environment)
    took_s, parts = [], []
    try:
        for step in STEPS:
            began_s = time.monotonic()
            parts.append(_played(shell, step))
            took_s.append(time.monotonic() - began_s)
            sys.stdout.write(f"{took_s[-1]:6.1f} s  {step.says}\n")
            sys.stdout.flush()
    finally:
        shell.stdin.close()  # type: ignore[union-attr]
        shell.wait()
    shutil.rmtree(FOLDER, ignore_errors=True)
    if missing := [words for words in SHOWN if not any(words in part for part in parts)]:
        sys.stderr.write("\n".join(parts) + f"\nnobody said: {', '.join(missing)}\n")
        return 1
    whole = HEAD.format(took=_minutes(sum(took_s)), demo=_minutes(took_s[0]), guest=_minutes(took_s[2]))
    PAGE.write_text(whole + "\n".join(parts) + "<!-- end -->\n", encoding="utf-8")
    return 0


def _played(shell: subprocess.Popen[str], step: Step) -> str:
    """The step as the page has it: what was typed, and what was said."""
    assert shell.stdin is not None  # noqa: S101
    assert shell.stdout is not None  # noqa: S101
    shell.stdin.write(f"{step.commands}\necho '{END}'\n")
    shell.stdin.flush()
    said: list[str] = []
    for line in shell.stdout:
        if line.rstrip("\n").endswith(END):
            said += [line.rstrip("\n").removesuffix(END)]
            break
        said.append(line.rstrip("\n"))
    typed = "\n".join(
        f"$ {line}" if not line.startswith(("  ", "done", "for")) else f"  {line}" for line in step.commands.splitlines()
    )
    says = textwrap.fill(step.says, WIDEST)
    return f"{says}\n\n```\n{typed}\n{_shortened(said)}\n```\n"


def _shortened(said: list[str]) -> str:
    """What people read of it: no colours, no line too wide, and the middle of a long answer left out."""
    lines = [re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line).rstrip() for line in said]
    lines = [line if len(line) <= WIDEST else line[: WIDEST - 1] + "…" for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    if len(lines) > LONGEST:
        half = LONGEST // 2
        lines = [*lines[:half], f"[{len(lines) - 2 * half} lines]", *lines[-half:]]
    return "\n".join(lines)


def _minutes(span_s: float) -> str:
    minutes, seconds = divmod(round(span_s), 60)
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


if __name__ == "__main__":
    sys.exit(main())

"""The terminal's echo, kept out of a picture that is redrawn.

An echoed `^C` moves the cursor, and the next picture then leaves pieces of the last one behind.
"""

from __future__ import annotations

import os
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_keyboard() -> Iterator[None]:
    """Within, keys are not echoed, and Ctrl-C works as ever. Nothing changes without a terminal of our own."""
    if not _owns_terminal():
        yield
        return
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    silent = termios.tcgetattr(keyboard)
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(keyboard, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _owns_terminal() -> bool:
    """A process in the background would be stopped for touching the terminal."""
    try:
        return sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError, AttributeError):
        return False

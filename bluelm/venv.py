"""For commands that any Python may start: they go on in .venv, where what they need is. Python 3.8 reads this file."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

VENV = Path(__file__).resolve().parent.parent / ".venv"


def enter(needed: tuple[str, ...], *command: str) -> None:
    """Start `command` (what stands behind `python`) anew in .venv where this Python lacks a package.

    Ends with a sentence where there is no .venv either.
    """
    if sys.version_info >= (3, 11) and all(find_spec(name) for name in needed):
        return
    python = VENV / "bin" / "python"
    if python.exists() and Path(sys.prefix).resolve() != VENV:
        os.execv(str(python), [str(python), *command, *sys.argv[1:]])
    sys.exit("The packages that this needs are not installed: run `make setup` first, then this command again.")

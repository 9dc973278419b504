"""Fetch a BlueLM checkpoint: python download_model.py [name] [--dir DIR] [--source HUB] [--list] ...

Under any Python 3: what it needs is in .venv, where it goes on by itself.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

NEEDED = ("modelscope_hub", "huggingface_hub")
VENV = Path(__file__).resolve().parent / ".venv"
VENV_PYTHON = VENV / "bin" / "python"


def enter_venv() -> None:
    """Go on in .venv where this Python lacks the packages. Ends with a sentence where there is none either."""
    if sys.version_info >= (3, 11) and all(find_spec(name) for name in NEEDED):
        return
    if VENV_PYTHON.exists() and Path(sys.prefix).resolve() != VENV:
        os.execv(str(VENV_PYTHON), [str(VENV_PYTHON), __file__, *sys.argv[1:]])
    sys.exit("The packages that this needs are not installed: run `make setup` first, then this command again.")


if __name__ == "__main__":
    enter_venv()
    from bluelm.download.cli import main

    sys.exit(main())

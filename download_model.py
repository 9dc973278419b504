"""Fetch a BlueLM checkpoint: python download_model.py [name] [--dir DIR] [--source HUB] [--list] ...

Under any Python 3: what it needs is in .venv, where it goes on by itself.
"""

from __future__ import annotations

import sys

from bluelm.venv import enter

if __name__ == "__main__":
    enter(("modelscope_hub", "huggingface_hub"), __file__)
    from bluelm.download.cli import main

    sys.exit(main())

"""Fetch a BlueLM checkpoint: python download_model.py [name] [--dir DIR] [--source HUB] [--list] ..."""

from __future__ import annotations

import sys

from bluelm.download.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""Under any Python 3: what is needed is in .venv, where it goes on by itself."""

from __future__ import annotations

import sys

from bluelm.venv import enter

if __name__ == "__main__":
    enter(("torch", "safetensors", "sentencepiece", "tokenizers", "pydantic_settings", "jinja2"), "-m", "bluelm.export")
    from bluelm.export.cli import main

    sys.exit(main())

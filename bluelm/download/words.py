"""What the command says, in English or, where the locale is Chinese, in Chinese; and its one kind of error."""

from __future__ import annotations

import os
from typing import ClassVar

from bluelm.errors import StartupError


class DownloadError(StartupError):
    """A download that cannot go on: a sentence and a remedy."""

    code: ClassVar[str] = "download_failed"


class NotOnHub(DownloadError):
    """This hub does not have it; another one may."""

    code: ClassVar[str] = "not_on_hub"


def tell(english: str, chinese: str) -> str:
    """The sentence in the language of the locale."""
    return chinese if in_chinese() else english


def in_chinese() -> bool:
    said = next((value for name in ("LC_ALL", "LC_MESSAGES", "LANG") if (value := os.environ.get(name))), "")
    return said.lower().startswith("zh")


def gigabytes(count: float) -> str:
    """Bytes for people: "14.6 GB", "512 kB"."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"

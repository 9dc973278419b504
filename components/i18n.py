"""The words of the pages in the reader's language, and errors worded for readers from their code and details."""

from __future__ import annotations

from typing import Any, Literal

import streamlit as st

from bluelm.errors import BlueLMError
from bluelm.store import shelf
from components.reader import owner
from components.words import en, zh

Language = Literal["en", "zh"]
LANGUAGES: dict[Language, str] = {"zh": "中文", "en": "English"}
KEY = "language"

STRINGS: dict[Language, dict[str, str]] = {"en": en.WORDS, "zh": zh.WORDS}
STARTERS: dict[Language, tuple[tuple[str, str], ...]] = {"en": en.STARTERS, "zh": zh.STARTERS}
PROMPTS: dict[Language, tuple[tuple[str, str, str], ...]] = {"en": en.PROMPTS, "zh": zh.PROMPTS}
_REASONS = {"bad_import": "import", "storage_error": "storage"}  # errors with a word for each cause
LIBRARY: dict[Language, tuple[tuple[str, str], ...]] = {"en": en.LIBRARY, "zh": zh.LIBRARY}


def language() -> Language:
    """The reader's language: what they chose, now or another time, else their browser's, else English."""
    if st.session_state.get(KEY) not in LANGUAGES:
        browsers = "zh" if (st.context.locale or "").lower().startswith("zh") else "en"
        remembered = shelf().preference(owner(), KEY)
        st.session_state[KEY] = remembered if remembered in LANGUAGES else browsers
    chosen: Language = st.session_state[KEY]
    return chosen


def remember() -> None:
    """The reader has chosen a language: they find it again the next time."""
    shelf().prefer(owner(), KEY, st.session_state[KEY])


def word(key: str, to: Language, /, **values: Any) -> str:
    """The text of `key` in one language, `values` filled in."""
    return STRINGS[to][key].format(**values)


def nth(place: int, to: Language | None = None) -> str:
    """A place in a row: 3rd, or in Chinese 3."""
    if (to or language()) == "zh":
        return str(place)
    ending = "th" if place % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{ending}"


def tell(key: str, /, **values: Any) -> str:
    """The text of `key` in the reader's language."""
    return word(key, language(), **values)


def explain(error: BlueLMError, to: Language | None = None) -> str:
    """What went wrong and what to do about it, in the reader's language."""
    to = to or language()
    values = {"message": error.message, "param": error.param, **error.details}
    if isinstance(values.get("progress"), float):
        values["progress"] = f"{values['progress']:.0%}"
    if "why" in values and (reason := f"{_REASONS.get(error.code)}.{values['why']}") in STRINGS[to]:
        values["reason"] = word(reason, to, **values)
    values["least"] = word("at_least", to) if values.get("at_least") else ""
    if "line" in values:
        values["place"] = word("import.line" if values["line"] else "import.file_line", to, line=values["line"])
    try:
        return word(f"error.{error.code}", to, **values)
    except KeyError:  # a kind without a wording of its own, or one that came without its details
        return word("error.other", to, message=error.message)

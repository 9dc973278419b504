"""What opens from the list of conversations: a new name, a link, files out and in."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from urllib.parse import urlsplit

import streamlit as st

from bluelm.errors import BadImport, StorageError
from bluelm.store import conversations
from bluelm.store.exchange import FILE_BYTES, from_jsonl, to_jsonl
from bluelm.store.markdown import from_markdown, is_ours, to_markdown
from components import i18n
from components.i18n import tell
from components.reader import owner

__all__ = ["ask", "draw"]

ASKED = "chats_dialog"


def ask(what: str, id: str = "") -> None:
    """Open a dialog with the next drawing: rename, share, export or files."""
    st.session_state[ASKED] = (what, id)


def draw(*, plain: bool) -> None:
    """The dialog that was asked for, once."""
    what, id = st.session_state.pop(ASKED, ("", ""))
    if what == "rename":
        st.dialog(tell("rename"), icon=":material/edit:")(_rename)(id)
    elif what == "share":
        st.dialog(tell("share"), icon=":material/link:")(_share)(id)
    elif what == "export":
        st.dialog(tell("export"), icon=":material/download:")(_export)(id, plain)
    elif what == "files":
        st.dialog(tell("chats.files"), icon=":material/import_export:")(_files)(plain)


def _rename(id: str) -> None:
    entry = conversations().entry(id)
    with st.form("rename_form", border=False):
        title = st.text_input(tell("chats.title"), value=entry.title if entry else "", max_chars=200, key=f"title_{id}")
        st.caption(tell("chats.title.help"))
        if st.form_submit_button(tell("save"), type="primary"):
            _do(lambda: conversations().rename(id, owner(), title))


def _share(id: str) -> None:
    entry = conversations().entry(id)
    shared = entry.shared if entry else ""
    st.write(tell("share.sub"))
    if shared:
        here = urlsplit(st.context.url or "")
        st.code(f"{here.scheme}://{here.netloc}/?share={shared}", language=None, wrap_lines=True)
        st.button(tell("share.stop"), icon=":material/link_off:", on_click=_set_shared, args=(id, False))
    else:
        st.button(tell("share.start"), icon=":material/link:", type="primary", on_click=_set_shared, args=(id, True))


def _set_shared(id: str, on: bool) -> None:
    with suppress(StorageError):  # is told above the list
        conversations().share(id, owner(), on)


def _export(id: str | None, plain: bool) -> None:
    st.write(tell("export.sub"))
    name = f"bluelm-chat-{time.strftime('%Y%m%d-%H%M%S')}"
    me = owner()  # what makes the file runs without the page
    with st.container(horizontal=True, key="export_buttons"):
        for kind, write, mime in (("md", to_markdown, "text/markdown"), ("jsonl", to_jsonl, "application/jsonl")):
            st.download_button(
                tell(f"export.{kind}"), partial(_written, write, me, id, plain),
                f"{name}.{kind}", mime, key=f"export_{kind}", icon=":material/download:", on_click="ignore",
            )  # fmt: skip


def _written(write: Callable, owner: str, id: str | None, plain: bool) -> str:
    return "".join(write(conversations().export(owner, id, plain=plain)))


def _files(plain: bool) -> None:
    st.markdown(f"**{tell('export.all')}**")
    _export(None, plain)
    st.divider()
    st.markdown(f"**{tell('import')}**")
    st.write(tell("import.sub", megabytes=FILE_BYTES >> 20))
    chosen = st.file_uploader(
        tell("import.file"), type=["jsonl", "md", "json", "txt"], key="import_file", label_visibility="collapsed",
        max_upload_size=FILE_BYTES >> 20,
    )  # fmt: skip
    if chosen is None:
        return
    if st.button(tell("import"), type="primary", icon=":material/upload:", key="import_start"):
        data = chosen.getvalue()
        try:
            found = from_markdown(data) if is_ours(data) else from_jsonl(data)
            conversations().take_in(owner(), found)
        except (BadImport, StorageError) as error:
            st.error(i18n.explain(error), icon=":material/error:")
            return
        st.toast(tell("import.done", n=len(found)), icon=":material/check:")
        st.rerun()


def _do(change: Callable[[], None]) -> None:
    try:
        change()
    except StorageError as error:
        st.error(i18n.explain(error), icon=":material/error:")
        return
    st.rerun()

"""The pages to sign in and out: plain HTML without a script, a font or a picture from anywhere."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from urllib.parse import quote

from starlette.responses import HTMLResponse

from bluelm.auth.words import WORDS

STYLE = """
:root { color-scheme: light dark; --blue: #2f6bff; --line: #cdd6e6; --text: #1b2333; --page: #f6f8fc; --card: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --blue: #6c95ff; --line: #3a455a; --text: #e6eaf2; --page: #10141c; --card: #1a202c; } }
* { box-sizing: border-box; }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 1rem; color: var(--text);
  background: var(--page); font: 16px/1.5 system-ui, "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif; }
main { width: 100%; max-width: 24rem; padding: 2rem 1.5rem; border: 1px solid var(--line); border-radius: 1rem;
  background: var(--card); }
h1 { margin: 0 0 1rem; font-size: 1.4rem; }
label { display: block; margin-bottom: .25rem; }
input, button { width: 100%; padding: .7rem .8rem; font: inherit; border-radius: .7rem; border: 1px solid var(--line); }
input { color: inherit; background: transparent; }
button { margin-top: 1rem; border-color: var(--blue); color: #fff; background: #2f6bff; cursor: pointer; }
:focus-visible { outline: 2px solid var(--blue); outline-offset: 2px; }
p { margin: .75rem 0 0; } small { opacity: .75; } a { color: var(--blue); }
[role=alert] { font-weight: 600; color: #c62828; }
@media (prefers-color-scheme: dark) { [role=alert] { color: #ff8a80; } }
"""
POLICY = (
    "default-src 'none'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    + "'"
)


def sign_in(language: str, back: str, trouble: str = "", status: int = 200, **values: object) -> HTMLResponse:
    """back: the path to go to afterwards. trouble: the key of a word."""
    say = WORDS[language]
    alert = f'<p role="alert">{escape(say[trouble].format(**values))}</p>' if trouble else ""
    form = (
        f'<form method="post" action="/login"><input type="hidden" name="next" value="{escape(back)}">'
        f'<input type="hidden" name="lang" value="{language}">'
        f'<label for="passcode">{say["passcode"]}</label><input id="passcode" name="passcode" type="password" required '
        f'autofocus autocomplete="current-password" autocapitalize="none" spellcheck="false">{alert}'
        f"<button>{say['sign_in']}</button><p><small>{say['hint']}</small></p></form>"
    )
    other = "en" if language == "zh" else "zh"
    switch = f'<p><small><a href="/login?lang={other}&amp;next={quote(back, safe="")}">{say["other"]}</a></small></p>'
    return page(language, say["sign_in"], form + switch, status)


def sign_out(language: str) -> HTMLResponse:
    say = WORDS[language]
    form = (
        f'<p>{say["sign_out.sub"]}</p><form method="post" action="/logout"><button>{say["sign_out"]}</button></form>'
        f'<p><a href="/">{say["back"]}</a></p>'
    )
    return page(language, say["sign_out"], form, 200)


def shut(language: str, sentence: str, status: int) -> HTMLResponse:
    """For a browser, why it cannot come in at all."""
    return page(language, WORDS[language]["shut"], f"<p>{escape(sentence)}</p>", status)


def page(language: str, title: str, content: str, status: int) -> HTMLResponse:
    lang = "zh-CN" if language == "zh" else "en"
    html = (
        f'<!doctype html><html lang="{lang}"><head><meta charset="utf-8"><title>{title} · BlueLM Chat</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style></head><body><main><h1>{title} · BlueLM Chat</h1>{content}</main></body></html>"
    )
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"}
    return HTMLResponse(html, status, headers)


def safe_path(back: str) -> str:
    """A place of this app to go to after signing in; "/" for what could lead anywhere else."""
    fine = back.startswith("/") and not back.startswith(("//", "/\\", "/login", "/logout"))
    return back if fine and back.isascii() and back.isprintable() and "\\" not in back and len(back) < 2000 else "/"

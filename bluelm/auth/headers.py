"""What browsers are told to refuse: above all, what the text of a model could ever make them fetch or run."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Streamlit's pages: styles are set from scripts, charts and components come as blobs, its formulas and code blocks need
# no eval. Everything else is this server's own: no picture, font, frame or request of another site.
PAGES = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval' blob: {inline}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' data: blob:; worker-src 'self' blob:; "
    "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
)
DOCS = PAGES.format(inline="'unsafe-inline'")  # Swagger UI starts with a script in the page; no model text gets there
FILES = "default-src 'none'; sandbox; frame-ancestors 'none'"  # exports and uploads, should somebody open one

ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),  # not no-referrer: forms would come with `Origin: null`
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)


def with_security(scope: Mapping[str, Any], send: Any, inline: str) -> Any:
    """`send`, with these headers on every response that does not bring its own. inline: hashes of scripts in a page."""
    path = scope["path"]
    if path.startswith("/media/"):
        policy = FILES
    elif path.startswith("/docs"):
        policy = DOCS
    else:
        policy = PAGES.format(inline=inline)

    async def send_with_security(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message["headers"]}
            added = [*ALWAYS, (b"content-security-policy", policy.encode())]
            own = [header for header in added if header[0] not in present]
            message = {**message, "headers": [*message["headers"], *own]}
        await send(message)

    return send_with_security


def script_hashes(html: Path) -> str:
    """The scripts that stand in this file, as a policy names them."""
    found = re.findall(r"<script>(.*?)</script>", html.read_text(encoding="utf-8"), re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in found)
    return " ".join(f"'sha256-{digest}'" for digest in digests)

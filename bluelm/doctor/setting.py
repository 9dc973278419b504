"""How the app is set up: settings, model, disk, port, addresses."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import tempfile
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bluelm.doctor import Finding, fault, note, ok
from bluelm.doctor.machine import GB, ROOT

ROOMY = 2 * GB
OVERHEAD = 1.1  # of the weights: what computing takes beside them and a small cache


def settings() -> Iterator[Finding]:
    from bluelm.config import load_settings

    load_settings()
    yield ok("settings", f"BLUELM_* and bluelm.toml ({'there' if (ROOT / 'bluelm.toml').exists() else 'not there'})")


def model() -> Iterator[Finding]:
    """Which one would be served, whether its files are whole and can be understood, and whether it fits."""
    from bluelm import models
    from bluelm.config import load_settings
    from bluelm.engine.opening import open_model

    given = load_settings()
    path = models.find(given)
    opened = open_model(path, given)
    size = _size(opened.path)
    yield ok(
        "model", f"{opened.id} ({opened.kind}, {size / GB:.2f} GB, {opened.config.context} tokens) at {opened.path}"
    )
    if opened.demo:
        cure = "run `python download_model.py chat` for BlueLM"
        yield note("model", "it is the small embedded one, for trying the page", cure)
    needed = size * {"int8": 0.55, "int4": 0.32}.get(given.quantization if not opened.packed else "", 1.0) * OVERHEAD
    place, there = _memory(given.device)
    if needed > there:
        cure = "set BLUELM_QUANTIZATION=int4, take a 4-bit checkpoint, or a machine with more memory"
        yield fault("memory", f"{needed / GB:.1f} GB are needed and {place} has {there / GB:.1f}", cure)
    else:
        yield ok("memory", f"{there / GB:.1f} GB on {place}, about {needed / GB:.1f} needed beside the cache")


def demo_model() -> Iterator[Finding]:
    """Missing, it is a fault only where nothing else would be served."""
    from bluelm import models
    from bluelm.config import load_settings
    from bluelm.engine.opening import embedded_model
    from bluelm.errors import CheckpointError

    try:
        yield ok("demo model", str(embedded_model()))
    except CheckpointError as error:
        if models.find(load_settings()) is None:
            raise
        found, _, cure = error.message.partition(": ")
        yield note("demo model", found, cure.rstrip("."))


def _size(path: Path) -> int:
    """Bytes of weights."""
    if path.is_file():
        return path.stat().st_size
    from bluelm.engine.checkpoint import Checkpoint

    return Checkpoint(path).bytes


def _memory(device: str) -> tuple[str, int]:
    import torch

    from bluelm.engine.memory import host_memory

    if device != "cpu" and torch.cuda.is_available():
        return "the card", torch.cuda.mem_get_info()[0]
    return "this machine", host_memory()


def data_folder() -> Iterator[Finding]:
    from bluelm.config import load_settings

    folder = ROOT / load_settings().data
    there = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".doctor-"):
            pass
    except OSError as error:
        cure = f"give the folder to {os.environ.get('USER', 'this user')} (chown), or name another by BLUELM_DATA"
        yield fault("data folder", f"{folder} cannot be written to: {error.strerror}", cure)
        return
    free = shutil.disk_usage(there).free
    if free < ROOMY:
        yield note(
            "data folder", f"{folder}, {free / GB:.1f} GB free", "free some space, or name another by BLUELM_DATA"
        )
    else:
        yield ok("data folder", f"{folder}, {free / GB:.0f} GB free")
    aside = sorted(folder.glob("*.db.damaged-*"))
    if aside:
        cure = f"look into it with `sqlite3 {aside[-1]} .recover`, or remove it"
        yield note("data folder", f"{len(aside)} damaged database(s) set aside, the last is {aside[-1].name}", cure)


def port() -> Iterator[Finding]:
    server = _streamlit()
    address = str(server.get("address") or "0.0.0.0")  # nosec B104: what Streamlit takes where it is told nothing
    number = _port(server)
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, number))
        except OSError as error:
            if error.errno == errno.EADDRINUSE and _is_ours(number):
                yield note("port", f"{number} is taken by this app, which runs already", "nothing, if that is wanted")
            else:
                cure = "end the program that has it, or take another port: make run PORT=6007"
                yield fault("port", f"{address}:{number} cannot be had: {error.strerror}", cure)
            return
    yield ok("port", f"{address}:{number} is free")


def _is_ours(number: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{number}/health/live", timeout=2) as answer:  # nosec B310
            return bool(json.load(answer).get("status") == "ok")
    except (OSError, ValueError):
        return False


def addresses() -> Iterator[Finding]:
    """Where browsers will find it, and whether strangers will too."""
    from bluelm.auth.start import Listening, check, public_urls
    from bluelm.config import load_settings

    server, given = _streamlit(), load_settings()
    for name, risk in (("enableCORS", "any page on the web could talk to it"), ("enableXsrfProtection", "uploads")):
        if server.get(name) is False:
            cure = "remove it from .streamlit/config.toml; for a proxy set BLUELM_PUBLIC_URL to the address of browsers"
            yield fault("addresses", f"server.{name} is off: {risk} is open to others", cure)
    listening = Listening(server.get("address"), _port(server), server.get("corsAllowedOrigins", []))
    check(given, listening)
    urls = public_urls(given, listening)
    yield ok("addresses", f"{listening.address or 'every address'}{', also ' + ', '.join(urls) if urls else ''}")


def _port(server: dict[str, Any]) -> int:
    return int(os.environ.get("PORT") or server.get("port", 6006))


def _streamlit() -> dict[str, Any]:
    told = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text(encoding="utf-8")).get("server", {})
    names = {"STREAMLIT_SERVER_ADDRESS": "address", "STREAMLIT_SERVER_PORT": "port"}
    return told | {names[name]: os.environ[name] for name in names if os.environ.get(name)}

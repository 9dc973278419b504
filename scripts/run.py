"""`streamlit run app.py`, with PORT and MODEL from the environment (or --model), in this very process, for Ctrl-C."""

from __future__ import annotations

import argparse
import errno
import os
import socket
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    os.chdir(ROOT)
    address, port = where()
    check_free(address, port)
    model, demo, options = wanted(sys.argv[1:])
    if model:
        os.environ["BLUELM_MODEL"] = str(Path(model).expanduser())
    if demo:
        os.environ["BLUELM_DEMO"] = demo
    print(f"Starting BlueLM Chat on http://{address}:{port} (Ctrl-C ends it).", flush=True)
    serve([f"--server.port={port}", *options])


def wanted(args: list[str]) -> tuple[str, str, list[str]]:
    """The model: --model first, then MODEL ("" for neither); demo mode: --demo or DEMO; the options for Streamlit."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model", default=os.environ.get("MODEL", ""))
    parser.add_argument("--demo", action="store_const", const="1", default=os.environ.get("DEMO", ""))
    given, options = parser.parse_known_args(args)
    return given.model, given.demo, options


def serve(options: list[str]) -> None:
    """Until Ctrl-C, which is how a server is meant to end, not a failure of `make run`."""
    from click import Abort
    from streamlit.web import cli

    try:
        cli.main(["run", "app.py", *options], prog_name="streamlit", standalone_mode=False)
    except (Abort, KeyboardInterrupt):
        print("BlueLM Chat has ended.", flush=True)


def where() -> tuple[str, int]:
    """Address and port: PORT first, then Streamlit's own variables, then its config.toml."""
    server = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text(encoding="utf-8")).get("server", {})
    address = os.environ.get("STREAMLIT_SERVER_ADDRESS") or server.get("address", "127.0.0.1")
    port = os.environ.get("PORT") or os.environ.get("STREAMLIT_SERVER_PORT") or str(server.get("port", 6006))
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        sys.exit(f"PORT is {port!r}: it must be a whole number from 1 to 65535.")
    return address, int(port)


def check_free(address: str, port: int) -> None:
    """End with a sentence where the port cannot be had."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: no wait after a restart
        try:
            probe.bind((address, port))
        except OSError as error:
            sys.exit(remedy(error, address, port))


def remedy(error: OSError, address: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {port} is taken by another program (perhaps this app runs already: http://{address}:{port}). "
            "End that one, or take another port: make run PORT=6007."
        )
    if error.errno == errno.EACCES:
        return f"Port {port} is reserved for the system: take one from 1024 up, as in make run PORT=6006."
    return f"{address}:{port} cannot be served: {error.strerror}. See server.address in .streamlit/config.toml."


if __name__ == "__main__":
    main()

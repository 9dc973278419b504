"""The server's sockets, where what its libraries do is not enough."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
from pathlib import Path

import uvicorn

HANDLES = Path("/proc/self/fd")
IDLE_S = 75.0  # longer than clients keep a connection that they do not use (httpx and openai 5 s, proxies 60)


def cut_off_after(seconds: float) -> None:
    """Have the system close connections whose clients take nothing of what is sent for so long, those from now on.

    A server that closes such a connection itself waits for the rest of it to be taken, which may be for ever. New
    connections have this from the socket that listens. Nothing happens where the system knows no such limit.
    """
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is None or not HANDLES.is_dir():
        return
    for handle in HANDLES.iterdir():
        with contextlib.suppress(OSError):  # gone meanwhile, or no socket of TCP
            if str(handle.readlink()).startswith("socket:"):
                with socket.socket(fileno=os.dup(int(handle.name))) as one:
                    if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                        one.setsockopt(socket.IPPROTO_TCP, option, int(seconds * 1000))


def keep_idle(seconds: float = IDLE_S) -> None:
    """Have the server keep connections for so long on which nothing is asked, those from now on.

    uvicorn closes them after 5 s, as httpx does: a client then asks on one that is being closed, and gets no answer.
    Streamlit makes the server's settings without a way to name this one, and they are read as a connection comes.
    """
    for one in gc.get_objects():
        if type(one) is uvicorn.Config:
            one.timeout_keep_alive = int(seconds)

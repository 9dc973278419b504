"""Ways that lie between a browser and the app elsewhere: a reverse proxy that rewrites Host, with TLS or without."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading

import trustme


class ReverseProxy:
    """Takes requests on a port of its own and hands each on over a connection of its own, its head rewritten.

    host: what the app gets to see as Host. added: header lines that it puts in. Websockets pass like everything else.
    `target` is the app's URL, set once that is known.
    """

    def __init__(self, host: str, added: tuple[str, ...] = (), tls: ssl.SSLContext | None = None) -> None:
        self.target = ""
        self._host, self._added, self._tls = host, added, tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self._tls is not None:
                near = self._tls.wrap_socket(near, server_side=True)
            head = b""
            while b"\r\n\r\n" not in head:
                if not (data := near.recv(65536)):
                    return
                head += data
            far = socket.create_connection(("127.0.0.1", int(self.target.rsplit(":", 1)[1])))
            far.sendall(self._rewritten(head))
            threading.Thread(target=_pump, args=(near, far), daemon=True).start()
            _pump(far, near)

    def _rewritten(self, start: bytes) -> bytes:
        head, _, body = start.partition(b"\r\n\r\n")
        lines = [line for line in head.decode("latin-1").split("\r\n") if not line.lower().startswith("host:")]
        lines[1:1] = [f"Host: {self._host}", *self._added]
        if not any(line.lower().startswith("upgrade:") for line in lines):  # one request for each connection
            lines = [re.sub("(?i)^connection:.*", "Connection: close", line) for line in lines]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end, how in ((sink, socket.SHUT_WR), (source, socket.SHUT_RD)):
        with contextlib.suppress(OSError):
            end.shutdown(how)


def certificate(*names: str) -> ssl.SSLContext:
    """A certificate that nobody vouches for, made now."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert(*names).configure_cert(context)
    return context

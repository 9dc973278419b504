"""What a real server keeps of pages that are left: enough for them to come back, and then nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets import Origin, Subprotocol
from websockets.sync.client import ClientConnection, connect

from tests.servers import Server, serve
from tests.test_faults_server import handles, until

KEPT_S = 2


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve(env={"STREAMLIT_SERVER_DISCONNECTED_SESSION_TTL": str(KEPT_S)}) as server:
        yield server


def page(server: Server, session: str = "") -> ClientConnection:
    """A page's connection, to be used in `with`: of a new session, or back to one it had."""
    known = [Subprotocol(name) for name in ("streamlit", *(("-", session) if session else ()))]
    return connect(f"ws{server.url[4:]}/_stcore/stream", subprotocols=known, origin=Origin(server.url), max_size=None)


def drawn(line: ClientConnection) -> str:
    """Have the page drawn; the session's id."""
    asked = BackMsg()
    asked.rerun_script.query_string = ""
    line.send(asked.SerializeToString())
    session = ""
    while True:
        told = ForwardMsg.FromString(line.recv(30, decode=False))  # type: ignore[arg-type]
        if told.WhichOneof("type") == "new_session":
            session = told.new_session.initialize.session_id
        elif told.WhichOneof("type") == "script_finished":
            return session


def test_pages_that_are_left_hold_no_file_handles_once_they_can_no_longer_come_back(server: Server) -> None:
    """Those that asked for nothing as well, and without another page or request that would stir the server."""
    with page(server) as line:
        drawn(line)  # what is made once
    time.sleep(1.5 * KEPT_S)
    before = handles(server)
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(page(server)) for _ in range(6)]
        for line in lines[:3]:
            drawn(line)
        assert handles(server) >= before + 6 * 4  # the connection, and the session's event loop
    until(lambda: handles(server) <= before, 2 * KEPT_S + 5)


def test_a_page_may_come_back_for_as_long_as_it_is_kept(server: Server) -> None:
    with page(server) as line:
        session = drawn(line)
    for _ in range(3):  # longer in all than it is kept once
        time.sleep(KEPT_S / 2)
        with page(server, session) as line:
            assert drawn(line) == session
    time.sleep(1.5 * KEPT_S)
    with page(server, session) as line:
        assert drawn(line) != session

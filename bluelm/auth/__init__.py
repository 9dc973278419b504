"""Who may come in: one ASGI middleware before pages, websockets, files, the API and its documentation alike.

gate.py       the middleware: every request and websocket passes `Gate` or is refused
door.py       who somebody is: a key or the passcode from a program, a signed cookie from a browser
sessions.py   the cookies of browsers, signed with keys that rotate
attempts.py   how often somebody may try a wrong passcode
keys.py       the file of keys for programs, and their limits
origins.py    from which addresses this app may be used
login.py      the pages to sign in and out; words.py their words
headers.py    what browsers are told to refuse
start.py      where the app may listen, and what is told at its start
"""

from __future__ import annotations

from bluelm.auth.gate import Gate
from bluelm.auth.headers import script_hashes
from bluelm.auth.start import Listening, check, start_lines

__all__ = ["Gate", "Listening", "check", "script_hashes", "start_lines"]

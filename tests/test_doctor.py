"""`python -m bluelm.doctor`, as people start it: one line a finding, each fault with its cure, whatever is broken."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bluelm.doctor import Level, fault, look, ok, setting
from bluelm.doctor.__main__ import line
from tests.servers import ROOT, free_port


def doctor(*options: str, python: tuple[str, ...] = (), env: dict[str, str] | None = None) -> tuple[int, str]:
    command = [sys.executable, *python, "-m", "bluelm.doctor", *options]
    given = {**os.environ, "PORT": str(free_port()), **(env or {})}
    done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


def findings(**env: str) -> tuple[int, list[dict[str, Any]]]:
    code, told = doctor("--json", env=env)
    return code, json.loads(told)


def faults(told: list[dict[str, Any]]) -> dict[str, str]:
    return {one["about"]: f"{one['found']} {one['cure']}" for one in told if one["level"] == "fault"}


def test_a_sound_machine_has_no_fault_and_everything_was_looked_at() -> None:
    code, told = findings()
    assert code == 0 and not faults(told)
    assert {"Python", "packages", "PyTorch", "settings", "demo model", "model", "memory", "data folder", "port"} <= {
        one["about"] for one in told
    }


def test_every_fault_is_found_at_once_and_named_with_its_cure(tmp_path: Path) -> None:
    """A taken port, a data folder that is a file, a checkpoint that is not whole."""
    (tmp_path / "data").write_text("a file in its place")
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, told = findings(BLUELM_DATA=str(tmp_path / "data"), BLUELM_MODEL=str(model), PORT=port)
    found = faults(told)
    assert code == 1 and {"model", "data folder", "port"} <= set(found)
    assert port in found["port"] and "make run PORT=" in found["port"]
    assert str(model) in found["model"]
    assert all(one["found"] for one in told)


def test_it_works_where_no_package_is_installed() -> None:
    """-S: Python without site-packages."""
    code, told = doctor(python=("-S",))
    lines = told.splitlines()
    assert code == 1 and any(line.startswith("FAULT  packages:") and "make setup" in line for line in lines)
    assert all("->" in line for line in lines if line.startswith("FAULT"))
    assert any(line.startswith("ok     port") for line in lines), "what can be looked at is"


def test_a_check_that_breaks_is_a_finding_and_not_the_end() -> None:
    def broken():  # type: ignore[no-untyped-def]
        yield ok("first", "fine")
        raise ZeroDivisionError("odd")

    told = look([broken, lambda: iter([fault("second", "two\nlines", "mend it")])])
    assert [one.level for one in told] == [Level.OK, Level.FAULT, Level.FAULT]
    assert line(told[-1]) == "FAULT  second: two lines -> mend it"
    assert any("odd" in one.found for one in told)


def test_a_missing_demo_model_is_a_fault_only_where_nothing_else_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (tmp_path / "model").mkdir()
    for model, level in (("demo", Level.FAULT), (str(tmp_path / "model"), Level.NOTE)):
        monkeypatch.setenv("BLUELM_MODEL", model)
        (found,) = look([setting.demo_model])
        assert found.level is level and "make setup" in found.found + found.cure

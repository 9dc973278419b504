"""Any request that /openapi.json allows, and many that it does not, to the real server: no 5xx, no undocumented answer.

Schemathesis makes them. A longer run by hand: python -m tests.test_api_schema 300
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.checkpoints import write_checkpoint
from tests.servers import serve

SECONDS = 10
# That whatever fits the schema is taken cannot hold: a schema knows no window of tokens, and no law of conversations.
NOT_CHECKED = "positive_data_acceptance"


def run(seconds: int, phases: str) -> str:
    """What schemathesis says after so many seconds with a model that takes tools; fails where it found a fault."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "BlueLM-7B-Chat-32K"
        write_checkpoint(folder)
        with serve("real", env={"BLUELM_MODEL": str(folder), "BLUELM_THREADS": "1"}) as server:
            server.wait_ready()
            command = [
                str(Path(sys.executable).with_name("st")), "run", f"{server.url}/openapi.json", "--no-color",
                "--seed", "1", "--max-time", str(seconds), "--generation-database", "none",
                "--exclude-checks", NOT_CHECKED, "--phases", phases, "--workers", "2",
            ]  # fmt: skip
            done = subprocess.run(
                command, cwd=parent, text=True, capture_output=True, timeout=seconds + 120, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr + server.log()[-2000:]
            server.wait_idle(20)
            assert "Traceback" not in server.log(), server.log()[-2000:]
            assert server.health()["restarts"] == 0
    return done.stdout


def test_schemathesis_finds_no_server_error_and_no_undocumented_answer() -> None:
    said = run(SECONDS, "examples,fuzzing")
    tried = re.search(r"(\d+) generated, (\d+) passed", said)
    assert tried and tried[1] == tried[2] and int(tried[1]) > 30, said


if __name__ == "__main__":
    print(run(int(sys.argv[1]), "examples,coverage,fuzzing,stateful"))

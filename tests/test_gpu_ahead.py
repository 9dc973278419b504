"""That all kernels are compiled ahead, at the same time, and none is compiled again as it is launched; without a card.

In a process of its own, where Triton's driver is one that says it is a card and only counts what is launched.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not made for this system")
def test_all_kernels_are_compiled_ahead_and_none_again(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.compile_without_card"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "0", "CUDA_VISIBLE_DEVICES": "", "TRITON_CACHE_DIR": str(tmp_path)},
        text=True,
        capture_output=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    ahead, launched, again = map(int, ran.stdout.split())
    assert ahead > 10 and launched > 2 * ahead and again == 0, ran.stderr[-3000:]

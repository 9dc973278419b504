"""The card's kernels without a card: test_gpu_kernels.py, _packed and _serving in Triton's interpreter.

In a process of its own: the interpreter has to be chosen before Triton is imported, and other tests may have done it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = (
    "tests/test_gpu_kernels.py", "tests/test_gpu_logprobs.py", "tests/test_gpu_packed.py", "tests/test_gpu_serving.py",
)  # fmt: skip


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not made for this system")
@pytest.mark.parametrize("file", FILES)
def test_the_kernels_in_the_interpreter(file: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", file],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        text=True,
        capture_output=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]
    assert "[100%]" in ran.stdout

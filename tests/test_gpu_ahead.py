"""That all kernels are compiled ahead, at the same time, and none is compiled again as it is launched; without a card.

In a process of its own, where Triton's driver is one that says it is a card and only counts what is launched.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not made for this system")


@needs_triton
def test_threads_never_get_each_others_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime import build

    from bluelm.engine.gpu.compiling import launchers_apart

    last = ModuleType("__triton_launcher")

    def load(name: str, path: str) -> ModuleType:
        """As CPython does where a module of this name and path was loaded before."""
        last.launch = path  # type: ignore[attr-defined]
        time.sleep(0.001)
        return last

    monkeypatch.setattr(build, "_load_module_from_path", load)
    with launchers_apart(), ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda path: build._load_module_from_path("__triton_launcher", path), "abcdefgh" * 5))
    assert "".join(each.launch for each in found) == "abcdefgh" * 5
    assert build._load_module_from_path is load


@needs_triton
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

"""A CPU's own kernels: 4 and 8 bits by the instructions that multiply 8-bit numbers, and a whole step in one call.

numba compiles them at the first start, which takes some seconds, and keeps them in the user's cache. Where they cannot
run, PyTorch's own operations do the same, in 16 bits.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import tempfile
from pathlib import Path

NEEDED = ("avx512f", "avx512bw", "avx512vl", "avx512vnni")


def missing() -> str:
    """Why the kernels cannot run here; "" if they can. Compiles them if that was not done before."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "they are for Linux on x86-64"
    try:
        from llvmlite import binding

        features = binding.get_host_cpu_features()
        lacking = [name for name in NEEDED if not features.get(name)]
        if lacking:
            return f"this processor has no {', '.join(lacking)}"
        from bluelm.engine.native import crew

        crew.crew()
    except Exception as error:  # numba is missing, or does not know this Python, numpy or processor
        return f"numba does not work here ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})"
    return ""


def cache_folder() -> Path:
    """Where compiled kernels are kept: another folder for each version of their code, which numba would not see. It
    runs what it finds there, so a folder that others may write is not taken, but a new one for this process."""
    code = b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py")))
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root / "bluelm" / f"native-{hashlib.sha256(code).hexdigest()[:16]}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.stat()
        if about.st_uid == os.getuid() and not about.st_mode & 0o022 and os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="bluelm-native-"))

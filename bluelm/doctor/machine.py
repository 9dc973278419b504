"""The machine and what is installed on it."""

from __future__ import annotations

import platform
import re
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from bluelm.doctor import Finding, fault, note, ok

ROOT = Path(__file__).resolve().parent.parent.parent
SETUP = "run `make setup`"
PYTHON = (3, 11)
TRITON_FROM = (3, 6)
OLDEST_CARD = (8, 0)  # compute capability, for the engine's own kernels
GB = 10**9


def python() -> Iterator[Finding]:
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < PYTHON:
        yield fault("Python", found, "install Python 3.11 or later, and run `make setup PYTHON=/path/to/it`")
    else:
        yield ok("Python", found)
    if Path(sys.prefix).resolve() != (ROOT / ".venv").resolve() and (ROOT / ".venv").is_dir():
        yield note("Python", "this is not the one of .venv", "run .venv/bin/python -m bluelm.doctor")


def packages() -> Iterator[Finding]:
    """Every line of requirements.txt, by what is installed."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line.partition("#")[0].strip() for line in lines]
    wrong = []
    for line in filter(None, wanted):
        name = re.split(r"[<>=!~;\[ ]", line)[0]
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        if not _fits(version, line):
            wrong.append(f"{name} is {version} and is to be {line.removeprefix(name)}")
    if wrong:
        yield fault("packages", "; ".join(wrong), SETUP)
    else:
        yield ok("packages", f"all {len(list(filter(None, wanted)))} of requirements.txt")


def _fits(version: str, line: str) -> bool:
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return True
    return Requirement(line).specifier.contains(version, prereleases=True)


def torch() -> Iterator[Finding]:
    import torch

    build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for the CPU"
    yield ok("PyTorch", f"{torch.__version__}, {build}")
    driver = shutil.which("nvidia-smi")
    if torch.cuda.is_available():
        return
    if torch.version.cuda and driver:
        cure = "update the driver (nvidia-smi tells its version), or install a PyTorch for its CUDA version"
        yield fault("CUDA", "there is a driver, and PyTorch finds no card", cure)
    elif driver:
        cure = "remove .venv and run `make setup PYTHON=...` with a Python that has a PyTorch for CUDA"
        yield fault("CUDA", "there is a card, and this PyTorch is one for the CPU", cure)
    else:
        cure = "nothing, for the demo model; for BlueLM 7B take a machine with an NVIDIA card"
        yield note("CUDA", "no card: the CPU computes", cure)


def cards() -> Iterator[Finding]:
    import torch

    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        name, capability = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
        free, total = torch.cuda.mem_get_info(index)
        about = f"card {index}"
        told = (
            f"{name}, compute capability {capability[0]}.{capability[1]}, {free / GB:.1f} of {total / GB:.1f} GB free"
        )
        try:
            torch.ones(8, device=f"cuda:{index}").sum().item()
        except RuntimeError as error:
            yield fault(about, f"{told}; it does not compute: {str(error).splitlines()[0]}", "update PyTorch or driver")
            continue
        if capability < OLDEST_CARD:
            yield note(about, told, "it works by PyTorch's own operations, slower; 3090, 4090, A100 or newer is better")
        elif free < total / 2:
            yield note(about, told, "other programs hold its memory: nvidia-smi tells which; end them")
        else:
            yield ok(about, told)


def triton() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        return
    try:
        version = metadata.version("triton")
    except metadata.PackageNotFoundError:
        yield note("Triton", "not installed: plain operations serve, slower", "pip install 'triton>=3.6'")
        return
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < TRITON_FROM:
        yield note("Triton", f"{version} is too old", "pip install 'triton>=3.6'")
    elif not any(map(shutil.which, ("cc", "gcc", "clang"))):
        yield note("Triton", f"{version}, and there is no C compiler for it", "apt install gcc")
    else:
        yield ok("Triton", version)

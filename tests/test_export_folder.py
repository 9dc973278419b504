"""`python -m bluelm.export` in a process of its own: the folder is there whole, or not at all, and it says why."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bluelm.export.folder import MARK, PARTIAL
from tests.checkpoints import write_checkpoint

ROOT = Path(__file__).parent.parent
SLOW = (
    "import time, bluelm.export.weights as w; real = w.save_file\n"
    "w.save_file = lambda *a, **k: (real(*a, **k), time.sleep(60))\n"
)
NO_ROOM = "import shutil; shutil.disk_usage = lambda path: shutil._ntuple_diskusage(9**9, 0, 10**6)\n"
ROOM = "import shutil; shutil.disk_usage = lambda path: shutil._ntuple_diskusage(9**15, 0, 9**15)\n"
LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sources") / "BlueLM-7B-Chat"
    write_checkpoint(path)
    (path / "MODEL_LICENSE.txt").write_text("OpenAtom")
    (path / "modeling_bluelm.py").write_text("raise SystemExit('remote code has run')")
    return path


def start(*args: object, first: str = "", **env: str) -> subprocess.Popen[str]:
    """first: Python that runs before the command."""
    code = f"{first}import sys; from bluelm.export.cli import main; sys.exit(main())"
    how = ["-c", code] if first else ["-m", "bluelm.export"]
    return subprocess.Popen(
        [sys.executable, *how, *map(str, args)],
        cwd=ROOT, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run(*args: object, first: str = "", **env: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr. No run ever shows a traceback."""
    running = start(*args, first=first, **env)
    out, err = running.communicate(timeout=60)
    assert "Traceback" not in out + err
    return running.returncode, out, err


def wait_for_weights(target: Path) -> None:
    partial, end = target.with_name(target.name + PARTIAL), time.monotonic() + 30
    while not list(partial.glob("*.safetensors")):
        assert time.monotonic() < end
        time.sleep(0.02)


def assert_whole(target: Path) -> None:
    names = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in target.iterdir()} == names | {"tokenizer.model", "MODEL_LICENSE.txt"}
    assert {path.stat().st_mode & 0o777 for path in target.iterdir()} == {0o666 & ~umask()}
    assert not target.with_name(target.name + PARTIAL).exists()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_it_says_where_the_folder_is_and_how_to_serve_it(source: Path, tmp_path: Path) -> None:
    code, out, err = run(source, tmp_path / "a" / "b c")
    assert code == 0 and "Writing 100%" in err
    assert out.splitlines()[-1].endswith(f"vllm serve '{tmp_path / 'a' / 'b c'}'")
    assert_whole(tmp_path / "a" / "b c")


def test_an_empty_folder_is_taken_and_any_other_is_not_touched(source: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert run(source, tmp_path / "empty")[0] == 0
    assert_whole(tmp_path / "empty")
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "empty").iterdir())
    code, _, err = run(source, tmp_path / "empty")
    assert code == 1 and "is not empty: name a new folder" in err
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "empty").iterdir()) == before
    (tmp_path / "file").write_text("")
    assert "is not empty" in run(source, tmp_path / "file")[2]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_export_leaves_nothing(source: Path, tmp_path: Path, signum: signal.Signals) -> None:
    running = start(source, tmp_path / "llama", first=SLOW)
    wait_for_weights(tmp_path / "llama")
    running.send_signal(signum)
    _, err = running.communicate(timeout=20)
    assert running.returncode == 130 and "Interrupted" in err and "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_a_killed_one_is_recognised_and_the_next_starts_anew(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "llama"
    running = start(source, target, first=SLOW)
    wait_for_weights(target)
    code, _, err = run(source, target)
    assert code == 1 and "Another export to" in err
    running.kill()
    running.communicate()
    partial = tmp_path / f"llama{PARTIAL}"
    assert (partial / MARK).exists() and not (partial / "config.json").exists() and not target.exists()
    assert run(source, target)[0] == 0
    assert_whole(target)


def test_what_is_not_of_an_export_is_not_removed(source: Path, tmp_path: Path) -> None:
    other = tmp_path / f"llama{PARTIAL}" / "mine.txt"
    other.parent.mkdir()
    other.write_text("mine")
    code, _, err = run(source, tmp_path / "llama")
    assert code == 1 and "was not left by an export" in err and other.read_text() == "mine"


def test_too_little_room_is_said_before_anything_is_written(source: Path, tmp_path: Path) -> None:
    code, _, err = run(source, tmp_path / "llama", first=NO_ROOM)
    assert code == 1 and "1 MB free and 68 MB are needed: free 67 MB" in err
    assert not list(tmp_path.iterdir())


def test_a_file_that_grows_too_large_is_said(source: Path, tmp_path: Path) -> None:
    code, _, err = run(source, tmp_path / "llama", first=LIMIT)
    assert code == 1 and "does not allow files this large" in err
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_on_the_way_is_said(source: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        code, _, err = run(source, tmp_path / "llama", first=ROOM)
        assert code == 1 and "is full: free some room" in err
        assert not list(tmp_path.iterdir())
        code, _, err = run(source, tmp_path)
        assert code == 1 and "is a disk of its own" in err
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_place_that_cannot_be_written_to_is_said(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = run(source, tmp_path / "file" / "llama")
    assert code == 1 and "could not be written" in err


@pytest.mark.parametrize("args", [(), ("a",), ("a", "b", "--dtype", "int3"), ("a", "b", "--shard-gb", "0")])
def test_wrong_usage_is_two(args: tuple[str, ...]) -> None:
    assert run(*args)[0] == 2


def test_a_source_that_is_not_there_is_said(tmp_path: Path) -> None:
    code, _, err = run("chatt", tmp_path / "llama")
    assert code == 1 and "did you mean chat?" in err


def test_chinese_where_the_locale_is(source: Path, tmp_path: Path) -> None:
    code, out, _ = run(source, tmp_path / "llama", LANG="zh_CN.UTF-8", LC_ALL="", PYTHONUTF8="1")
    assert code == 0 and "导出完成" in out

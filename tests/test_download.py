"""`python download_model.py` in a process of its own, with the real libraries, against a hub on loopback that fails."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bluelm import models
from bluelm.catalog import Source
from bluelm.download import manifest
from bluelm.models import State
from tests.hub_servers import FakeHub, serving, sha256

ROOT = Path(__file__).parent.parent
ID, NAME = "vivo-ai/BlueLM-7B-Chat", "BlueLM-7B-Chat"
WEIGHTS = "pytorch_model.bin"
MIB = 1 << 20
BIG = random.Random(7).randbytes(MIB) * 24  # the libraries write pieces of up to 10 MiB
FILES = {
    "README.md": b"# BlueLM",
    "config.json": b'{"model_type": "BlueLM", "auto_map": {"AutoConfig": "configuration_bluelm.py"}}',
    "configuration_bluelm.py": b"raise SystemExit('remote code has run')",
    "modeling_bluelm.py": b"raise SystemExit('remote code has run')",
    "tokenizer.model": b"a" * 1000,
    "resources/picture.json": b"{}",
    WEIGHTS: BIG,
}
WANTED = {"README.md", "config.json", "tokenizer.model", WEIGHTS}
both = pytest.mark.parametrize("source", ["modelscope", "huggingface"])
DISK_FULL_LATE = "import shutil; shutil.disk_usage = lambda path: shutil._ntuple_diskusage(9**15, 0, 9**15)\n"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving(FakeHub({ID: dict(FILES)})) as running:
        yield running


class Place:
    """A folder for models, and the command run in it, against `hub`, with a home of its own."""

    def __init__(self, tmp: Path, hub: FakeHub) -> None:
        self.home, self.models = tmp / "home", tmp / "models"
        self.home.mkdir()
        self.folder = self.models / NAME
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "NO_PROXY": "127.0.0.1",
            "HF_ENDPOINT": hub.url,
            "MODELSCOPE_DOMAIN": hub.url,
            "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def start(self, *args: str, first: str = "", **env: str) -> subprocess.Popen[str]:
        """first: Python that runs before the command."""
        command = f"{first}import sys; from bluelm.download.cli import main; sys.exit(main())"
        how = ["-c", command] if first else ["download_model.py"]
        return subprocess.Popen(
            [sys.executable, *how, *args, "--dir", str(self.models)],
            cwd=ROOT,
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *args: str, first: str = "", **env: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr. No run ever shows a traceback."""
        running = self.start(*args, first=first, **env)
        out, err = running.communicate(timeout=60)
        assert "Traceback" not in out + err
        return running.returncode, out, err

    def state(self) -> State:
        return models.inspect(self.folder)[0]

    def wait_for_bytes(self, count: int) -> None:
        """Until so many bytes of the weights are on the disk."""
        growing = self.folder / f"{WEIGHTS}.incomplete"
        deadline = time.monotonic() + 30
        while not (growing.exists() and growing.stat().st_size >= count):
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def place(tmp_path: Path, hub: FakeHub) -> Place:
    return Place(tmp_path, hub)


def assert_whole(place: Place) -> None:
    done = manifest.read(place.folder)
    assert done is not None and done.complete
    assert {file.path: file.sha256 for file in done.files} == {name: sha256(FILES[name]) for name in WANTED}
    assert {path.name for path in place.folder.iterdir()} == WANTED | {manifest.NAME}
    assert all((place.folder / name).read_bytes() == FILES[name] for name in WANTED)


@both
def test_a_checkpoint_comes_whole_without_code_and_says_how_to_chat(place: Place, hub: FakeHub, source: Source) -> None:
    code, out, _ = place.run("--source", source)
    assert code == 0
    assert_whole(place)
    assert place.state() is State.COMPLETE
    assert out.splitlines()[-1].endswith(f"make run MODEL={place.folder}")
    assert not [path for path, _ in hub.asked if path.endswith(".py")]
    assert not list(place.home.rglob("*"))  # no ids, no caches
    hub.asked.clear()
    code, out, _ = place.run("--source", source)
    assert (code, hub.asked) == (0, [])
    assert "complete already" in out


@both
def test_a_broken_line_is_resumed_where_it_broke(place: Place, hub: FakeHub, source: Source) -> None:
    hub.cut[WEIGHTS] = [11 * MIB, 11 * MIB]
    assert place.run("--source", source)[0] == 0
    assert_whole(place)
    starts = [int(asked.removeprefix("bytes=").removesuffix("-") or 0) for asked in hub.ranges(WEIGHTS)]
    assert starts[0] == 0 and len(starts) == 3 and 10 * MIB <= starts[1] < starts[2]
    assert hub.sent[WEIGHTS] < len(BIG) + 3 * MIB


@both
def test_a_killed_download_goes_on_where_it_was(place: Place, hub: FakeHub, source: Source) -> None:
    hub.stall[WEIGHTS] = 12 * MIB
    running = place.start("--source", source)
    place.wait_for_bytes(10 * MIB)
    running.kill()
    running.communicate()
    assert place.state() is State.PARTIAL
    assert "partial (" in place.run("--list")[1]
    assert place.run()[0] == 0  # the source is remembered
    assert_whole(place)
    assert hub.ranges(WEIGHTS)[1].startswith("bytes=1")
    assert hub.sent[WEIGHTS] <= len(BIG) + 2 * MIB


@both
def test_ctrl_c_ends_at_once_and_says_how_to_go_on(place: Place, hub: FakeHub, source: Source) -> None:
    hub.stall[WEIGHTS] = 12 * MIB
    running = place.start("--source", source)
    place.wait_for_bytes(10 * MIB)
    asked = time.monotonic()
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=20)
    assert time.monotonic() - asked < 3
    assert running.returncode == 130
    assert "goes on from here" in err and "Traceback" not in err
    assert place.state() is State.PARTIAL


def test_one_hub_finishes_what_the_other_began(place: Place, hub: FakeHub) -> None:
    hub.stall[WEIGHTS] = 12 * MIB
    running = place.start("--source", "modelscope")
    place.wait_for_bytes(11 * MIB)
    running.kill()
    running.communicate()
    assert place.run("--source", "huggingface")[0] == 0
    assert_whole(place)
    assert hub.sent[WEIGHTS] <= len(BIG) + 2 * MIB


@both
def test_a_corrupt_file_is_fetched_once_more(place: Place, hub: FakeHub, source: Source) -> None:
    hub.corrupt[WEIGHTS] = 1
    code, out, _ = place.run("--source", source)
    assert code == 0
    assert f"Not as the hub lists it: {WEIGHTS}. Fetching anew." in out
    assert_whole(place)


@both
def test_a_file_that_stays_corrupt_is_never_taken_for_good(place: Place, hub: FakeHub, source: Source) -> None:
    hub.corrupt["config.json"] = 9  # of Hugging Face only git's own hash tells
    code, _, err = place.run("--source", source)
    assert code == 1
    assert "Twice not as" in err and "config.json" in err and "--source" in err
    assert place.state() is State.PARTIAL
    hub.corrupt.clear()
    assert place.run("--source", source)[0] == 0
    assert_whole(place)
    assert hub.sent[WEIGHTS] == len(BIG)


@both
def test_a_wrong_revision_is_said(place: Place, hub: FakeHub, source: Source) -> None:
    code, _, err = place.run("--source", source, "--revision", "v9")
    assert code == 1
    assert f"does not have {ID} (v9)" in err and "--revision" in err
    assert not place.folder.exists()
    assert place.run("--source", source, "--revision", "v1")[0] == 0


def test_no_network_at_all_is_said_at_once_and_leaves_nothing(place: Place) -> None:
    nowhere = "http://127.0.0.1:9"
    started = time.monotonic()
    code, _, err = place.run(HF_ENDPOINT=nowhere, MODELSCOPE_DOMAIN=nowhere)
    assert code == 1
    assert "No answer from ModelScope" in err and "Hugging Face" in err and "HTTPS_PROXY" in err
    assert time.monotonic() - started < 10
    assert not place.folder.exists()


@pytest.mark.parametrize("said", ["", "127.0.0.1:9/", "ftp://127.0.0.1:9"])
def test_an_address_of_a_hub_that_is_empty_or_not_whole_is_no_fault(place: Place, said: str) -> None:
    none = {"ALL_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}  # nothing is asked outside
    code, _, err = place.run("--source", "huggingface", HF_ENDPOINT=said, **none)
    where = said.rstrip("/") if "://" in said else f"https://{said.rstrip('/') or 'huggingface.co'}"
    assert code == 1 and f"No answer from Hugging Face ({where}" in err


def test_the_other_hub_is_taken_where_one_is_silent_or_lacks_it(place: Place, hub: FakeHub) -> None:
    with serving(FakeHub({})) as empty:
        code, out, _ = place.run(MODELSCOPE_DOMAIN=empty.url)
    assert code == 0
    assert "ModelScope does not have" in out and "From Hugging Face" in out
    assert_whole(place)
    code, out, _ = place.run("--source", "huggingface", MODELSCOPE_DOMAIN="http://127.0.0.1:9")
    assert code == 0


def test_a_checkpoint_that_no_hub_has_is_said(place: Place) -> None:
    code, _, err = place.run("base")
    assert code == 1
    assert "Hugging Face does not have vivo-ai/BlueLM-7B-Base" in err


@both
def test_a_hub_out_of_order_is_said(place: Place, hub: FakeHub, source: Source) -> None:
    hub.status = 503
    code, _, err = place.run("--source", source)
    assert code == 1
    assert "out of order (503)" in err


@both
def test_a_disk_that_fills_up_on_the_way_is_said_and_resumed(place: Place, hub: FakeHub, source: Source) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    place.models.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place.models)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        code, _, err = place.run("--source", source, first=DISK_FULL_LATE)
        assert code == 1
        assert "is full: free some room" in err
        assert place.state() is State.PARTIAL
        subprocess.run(["mount", "-o", "remount,size=64m", str(place.models)], check=True)
        assert place.run("--source", source)[0] == 0
        assert_whole(place)
        assert any(hub.ranges(WEIGHTS))
    finally:
        subprocess.run(["umount", "-l", str(place.models)], check=True)


def test_too_little_room_is_said_before_anything_is_fetched(place: Place, hub: FakeHub) -> None:
    little = "import shutil; shutil.disk_usage = lambda path: shutil._ntuple_diskusage(9**9, 0, 10**7)\n"
    code, _, err = place.run("--source", "huggingface", first=little)
    assert code == 1
    assert "10 MB free and 25 MB are still to come: free 15 MB" in err
    assert not hub.sent


def test_files_larger_than_allowed_are_said(place: Place) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, 5_000_000))\n"
    code, _, err = place.run("--source", "huggingface", first=limit)
    assert code == 1
    assert "does not allow files this large" in err


def test_two_downloads_into_one_folder_are_not_possible(place: Place, hub: FakeHub) -> None:
    hub.stall[WEIGHTS] = 12 * MIB
    running = place.start("--source", "huggingface")
    place.wait_for_bytes(10 * MIB)
    code, _, err = place.run("--source", "huggingface")
    assert code == 1
    assert "Another download into" in err
    running.kill()
    running.communicate()


def test_verify_needs_no_network_and_finds_a_flipped_bit(place: Place, hub: FakeHub) -> None:
    assert place.run("--source", "huggingface")[0] == 0
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "MODELSCOPE_DOMAIN": "http://127.0.0.1:9"}
    code, out, _ = place.run("--verify", **nowhere)
    assert code == 0
    assert "as it should be" in out
    with (place.folder / WEIGHTS).open("r+b") as file:
        file.seek(5 * MIB)
        file.write(b"\0\0\0\0")
    code, _, err = place.run("--verify", **nowhere)
    assert code == 1
    assert f"Damaged or missing in {place.folder}: {WEIGHTS}" in err
    assert place.state() is State.PARTIAL
    hub.sent.clear()
    assert place.run()[0] == 0
    assert_whole(place)
    assert set(hub.sent) == {WEIGHTS}


def test_verify_of_nothing_is_said(place: Place) -> None:
    code, _, err = place.run("--verify")
    assert code == 1
    assert "nothing to verify" in err
    assert not place.folder.exists()


def test_wrong_usage_is_two(place: Place) -> None:
    code, _, err = place.run("chatt")
    assert code == 2
    assert "did you mean chat?" in err
    assert place.run("--source", "elsewhere")[0] == 2


def test_a_file_in_the_way_is_said(place: Place) -> None:
    place.models.write_text("not a folder")
    code, _, err = place.run()
    assert code == 1
    assert "a file is in the way" in err


def test_the_list_shows_the_family_and_what_is_here(place: Place) -> None:
    code, out, _ = place.run("--list")
    assert code == 0
    assert out.count("absent") == 7
    assert place.run("--source", "modelscope")[0] == 0
    assert f"complete  {place.folder}" in place.run("--list")[1]


def test_chinese_where_the_locale_is(place: Place) -> None:
    code, out, _ = place.run(LANG="zh_CN.UTF-8", PYTHONUTF8="1")
    assert code == 0
    assert "下载完成" in out and "启动对话：  make run MODEL=" in out


@both
def test_a_downloaded_checkpoint_is_what_the_engine_serves(
    place: Place, hub: FakeHub, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bluelm.config import load_settings
    from bluelm.engine.loader import load
    from tests.checkpoints import write_checkpoint

    published = tmp_path / "published"
    write_checkpoint(published, shards=2)
    hub.repos[ID] = {path.name: path.read_bytes() for path in published.iterdir()}
    assert place.run("--source", source)[0] == 0
    monkeypatch.setattr(models, "roots", lambda: (place.models,))
    for name in ("", "chat", str(place.folder)):
        info = load(load_settings(model=name), lambda phase, progress: None).info
        assert (info.id, info.demo) == (NAME, False)

"""The catalog's names and sizes, and which folder on this disk is served."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from bluelm import models
from bluelm.catalog import CHECKPOINTS, DEFAULT, PARAMETERS, lookup
from bluelm.config import load_settings
from bluelm.download.manifest import File, Manifest
from bluelm.errors import CheckpointError, NotFound, SettingError
from bluelm.models import State
from bluelm.types import ModelKind


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty models folder in the place of the usual ones."""
    monkeypatch.setattr(models, "AUTODL_DISK", tmp_path / "no-such-disk")
    monkeypatch.setattr(models, "PROJECT", tmp_path)
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def put(folder: Path, *, complete: bool = True, missing: str = "") -> Path:
    """A folder as `download_model.py` leaves it, with or without its last step."""
    folder.mkdir(parents=True)
    names = ("config.json", "tokenizer.model", "pytorch_model.bin")
    for name in names:
        if name != missing:
            (folder / name).write_bytes(b"x" * 9)
    files = tuple(File(name, 9, "0" * 64) for name in names)
    Manifest(f"vivo-ai/{folder.name}", "modelscope", "master", "", files).write(folder, complete=complete)
    return folder


def put_copy(folder: Path) -> Path:
    """A folder that somebody copied or cloned: shards with an index, and no manifest."""
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.model", "pytorch_model-00001.bin", "pytorch_model-00002.bin"):
        (folder / name).write_bytes(b"x")
    index = {"weight_map": {"a": "pytorch_model-00001.bin", "b": "pytorch_model-00002.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def test_the_family_has_seven_checkpoints_and_chat_is_the_default() -> None:
    assert len(CHECKPOINTS) == len({c.short for c in CHECKPOINTS}) == 7
    assert DEFAULT.hub_id("modelscope") == DEFAULT.hub_id("huggingface") == "vivo-ai/BlueLM-7B-Chat"
    assert {c.short for c in CHECKPOINTS if c.kind is ModelKind.BASE} == {"base", "base-32k"}
    assert all((c.context == 32_768) == ("32K" in c.name) for c in CHECKPOINTS)


def test_sizes_are_those_of_the_architecture() -> None:
    assert 7.29e9 < PARAMETERS < 7.31e9
    assert lookup("chat").disk_bytes == 2 * PARAMETERS == lookup("chat").weight_bytes("float16")
    assert lookup("chat").weight_bytes("float32") == 4 * PARAMETERS
    assert 4.9e9 < lookup("chat-4bits").weight_bytes("bfloat16") < 5.1e9
    assert lookup("chat").memory_bytes("bfloat16", 1000) == 2 * PARAMETERS + 524_288_000
    assert 31e9 < lookup("chat-32k").memory_bytes("bfloat16") < 32e9


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("chat", "BlueLM-7B-Chat"),
        ("CHAT-32k", "BlueLM-7B-Chat-32K"),
        ("BlueLM-7B-Chat-4bits", "BlueLM-7B-Chat-4bits"),
        ("vivo-ai/bluelm-7b-base", "BlueLM-7B-Base"),
        (" chat-32k-awq ", "BlueLM-7B-Chat-32K-AWQ"),
    ],
)
def test_a_name_is_found_short_or_whole_in_any_case(typed: str, name: str) -> None:
    assert lookup(typed).name == name


@pytest.mark.parametrize(
    ("typed", "nearest"), [("chatt", "chat"), ("chat-4bit", "chat-4bits"), ("bse-32k", "base-32k")]
)
def test_a_wrong_name_suggests_the_nearest(typed: str, nearest: str) -> None:
    with pytest.raises(NotFound, match=f"did you mean {nearest}\\?") as raised:
        lookup(typed)
    assert raised.value.details["nearest"] == nearest


def test_a_name_like_no_other_lists_the_known_ones() -> None:
    with pytest.raises(NotFound, match=r"'qqqq': Known are chat, chat-32k, "):
        lookup("qqqq")


def test_without_any_download_the_embedded_model_is_served(root: Path) -> None:
    assert models.find(load_settings(model="")) is None


def test_a_downloaded_chat_model_is_served_by_itself_and_a_base_model_is_not(root: Path) -> None:
    put(root / "BlueLM-7B-Base")
    assert models.find(load_settings(model="")) is None
    put(root / "BlueLM-7B-Chat-4bits")
    put_copy(root / "BlueLM-7B-Chat-32K")
    assert models.find(load_settings(model="")) == root / "BlueLM-7B-Chat-32K"
    put(root / "BlueLM-7B-Chat")
    assert models.find(load_settings(model="")) == root / "BlueLM-7B-Chat"
    assert models.find(load_settings(model="base")) == root / "BlueLM-7B-Base"
    assert models.find(load_settings(model="demo")) is None


def test_a_half_downloaded_folder_is_left_out_and_said_so(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(root / "BlueLM-7B-Chat", complete=False, missing="pytorch_model.bin")
    put(root / "BlueLM-7B-Chat-4bits")
    with caplog.at_level(logging.WARNING):
        assert models.find(load_settings(model="")) == root / "BlueLM-7B-Chat-4bits"
    assert "BlueLM-7B-Chat is left out" in caplog.text
    assert "pytorch_model.bin" in caplog.text
    assert "python download_model.py chat`" in caplog.text


def test_what_is_not_whole_is_partial_and_says_what_is_wrong(root: Path) -> None:
    assert models.inspect(root / "none") == (State.ABSENT, "")
    assert models.inspect(put(root / "a")) == (State.COMPLETE, "")
    (root / "a" / "tokenizer.model").write_bytes(b"cut")
    assert models.inspect(root / "a") == (State.PARTIAL, "not there or not whole: tokenizer.model")
    assert models.inspect(put(root / "b", complete=False))[1] == "its files have not been verified yet"
    copy = put_copy(root / "c")
    assert models.inspect(copy) == (State.COMPLETE, "")
    (copy / "pytorch_model-00002.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert models.inspect(copy) == (State.PARTIAL, "not there or not whole: pytorch_model-00002.bin")


def test_a_setting_that_names_what_is_not_there_is_refused_with_the_remedy(root: Path) -> None:
    with pytest.raises(SettingError, match=r"run `python download_model\.py base` first"):
        models.find(load_settings(model="base"))
    with pytest.raises(SettingError, match=r"no such file or folder.*did you mean chat\?"):
        models.find(load_settings(model="chatt"))
    half = put(root / "BlueLM-7B-Chat", complete=False)
    for name in ("chat", str(half)):
        with pytest.raises(CheckpointError, match=r"not complete.*download_model\.py"):
            models.find(load_settings(model=name))
    (root / "notes.txt").touch()
    with pytest.raises(CheckpointError, match="neither a checkpoint folder"):
        models.find(load_settings(model=str(root / "notes.txt")))


def test_a_path_is_taken_as_it_is(root: Path) -> None:
    (root / "some.gguf").touch()
    assert models.find(load_settings(model=str(root / "some.gguf"))) == root / "some.gguf"
    assert models.find(load_settings(model=str(put_copy(root / "mine")))) == root / "mine"


def test_downloads_go_to_the_data_disk_where_there_is_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert models.roots() == (root,)
    disk = root.parent / "autodl-tmp"
    disk.mkdir()
    monkeypatch.setattr(models, "AUTODL_DISK", disk)
    assert models.roots() == (disk / "models", root)
    put(root / "BlueLM-7B-Chat")
    assert models.find(load_settings(model="")) == root / "BlueLM-7B-Chat"


def test_the_flag_for_the_model_comes_before_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    from scripts.run import wanted

    monkeypatch.delenv("MODEL", raising=False)
    assert wanted(["--server.address=0.0.0.0"]) == ("", "", ["--server.address=0.0.0.0"])
    monkeypatch.setenv("MODEL", "demo")
    assert wanted([]) == ("demo", "", [])
    assert wanted(["--model", "chat-32k", "--theme.base=dark"]) == ("chat-32k", "", ["--theme.base=dark"])
    assert wanted(["--demo"]) == ("demo", "1", [])

"""What a download chooses from a hub's listing, keeps of an earlier attempt, and says of a folder it may not write."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bluelm.catalog import lookup
from bluelm.download import files, manifest, transfer
from bluelm.download.manifest import File, Manifest
from bluelm.download.words import DownloadError


def listed(*names: str) -> list[File]:
    return [File(name, 1) for name in names]


def chosen(*names: str) -> set[str]:
    return {file.path for file in files.wanted(listed(*names))}


def test_only_weights_tokenizer_configuration_and_licence_are_wanted() -> None:
    good = {"model.safetensors", "config.json", "tokenizer.model", "chat_template.jinja", "README_zh.md", "LICENSE"}
    bad = {"modeling_bluelm.py", "sub/config.json", "../config.json", ".gitattributes", "a.sh", "training_args.bin"}
    assert chosen(*good, *bad, manifest.NAME) == good


def test_weights_in_both_forms_are_fetched_in_one() -> None:
    both = (
        "model-1.safetensors",
        "model.safetensors.index.json",
        "pytorch_model-1.bin",
        "pytorch_model.bin.index.json",
    )
    assert chosen(*both) == set(both[:2])
    assert chosen(*both[2:]) == set(both[2:])


def test_a_listing_without_weights_is_refused() -> None:
    with pytest.raises(DownloadError, match="no weights"):
        files.wanted(listed("config.json", "tokenizer.model"))


def test_what_cannot_become_the_wanted_file_is_dropped_and_the_rest_kept(tmp_path: Path) -> None:
    for name in ("same.incomplete", "other.incomplete", "long.incomplete", "new.incomplete", "bad.damaged"):
        (tmp_path / name).write_bytes(b"12345")
    old = Manifest(
        "id", "modelscope", "master", "", (File("same", 9, "a"), File("other", 9, "a"), File("long", 4, "a"))
    )
    wanted = [File("same", 9, "", "git"), File("other", 9, "b"), File("long", 4, "a"), File("new", 9, "c")]
    files.drop_stale(tmp_path, old, wanted)
    assert {path.name for path in tmp_path.iterdir()} == {"same.incomplete", "new.incomplete"}
    assert files.bytes_there(tmp_path, wanted) == 10


def test_a_damaged_manifest_is_none(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", '{"files": [1]}', '{"files": [{"path": "a"}]}'):
        (tmp_path / manifest.NAME).write_text(text)
        assert manifest.read(tmp_path) is None


def test_a_folder_of_somebody_else_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(DownloadError, match="cannot be written to: name a folder of yours with --dir"):
        transfer.download(lookup("chat"), tmp_path / "x", None, None, print)


@pytest.mark.parametrize("there", [True, False])
def test_any_python_goes_on_in_the_projects_own_or_says_what_to_do(tmp_path: Path, there: bool) -> None:
    (tmp_path / "bluelm").mkdir()
    for name in ("download_model.py", "bluelm/__init__.py", "bluelm/venv.py"):
        (tmp_path / name).write_bytes((Path(__file__).parent.parent / name).read_bytes())
    if there:
        inside = tmp_path / ".venv" / "bin" / "python"
        inside.parent.mkdir(parents=True)
        inside.write_text('#!/bin/sh\necho "inside: $2 $3"\n')
        inside.chmod(0o755)
    bare = [getattr(sys, "_base_executable", sys.executable), "-S", "-E"]  # without any packages
    command = [*bare, str(tmp_path / "download_model.py"), "chat", "--list"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if there:
        assert (ran.returncode, ran.stdout) == (0, "inside: chat --list\n")
    else:
        assert ran.returncode == 1 and "run `make setup` first" in ran.stderr

"""Set-up with real virtual environments, on tiny wheels from a folder: no network, and nothing of the real .venv."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from scripts import run, setup

ROOT = Path(__file__).parent.parent
PYTHON = setup.interpreter()
REQUIREMENTS = {
    "requirements.txt": "torch>=2.11,<3\ntinyapp\n",
    "requirements-model.txt": "tinymodel==1.0\n",
    "requirements-dev.txt": "-r requirements.txt\ntinydev\n",
    "constraints.txt": "torch==2.13.0\n",
}


def write_package(where: Path, name: str, version: str, code: str = "", needs: str = "") -> None:
    """A module with its metadata, as an installer leaves it."""
    (where / name).mkdir(parents=True, exist_ok=True)
    (where / name / "__init__.py").write_text(code)
    info = where / f"{name}-{version}.dist-info"
    info.mkdir()
    requires = f"Requires-Dist: {needs}\n" if needs else ""
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}")
    (info / "WHEEL").write_text("Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    (info / "RECORD").write_text("")


def write_wheel(folder: Path, name: str, version: str, needs: str = "") -> None:
    source = folder / f"{name}-{version}-src"
    write_package(source, name, version, needs=needs)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for file in source.rglob("*"):
            wheel.write(file, file.relative_to(source))


def bring_torch(user_base: Path, version: str, code: str = "") -> None:
    """As an image does that has torch for its Python already."""
    write_package(user_base / "lib" / f"python3.{sys.version_info[1]}" / "site-packages", "torch", version, code)


class Project:
    """A copy of the scripts in a folder of its own, with tiny requirements."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.wheels = root / "wheels"
        shutil.copytree(ROOT / "scripts", root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
        for name, text in REQUIREMENTS.items():
            (root / name).write_text(text)
        for version in ("2.13.0", "2.14.0"):
            write_wheel(self.wheels, "torch", version)
        for name in ("tinyapp", "tinydev"):
            write_wheel(self.wheels, name, "1.0")
        write_wheel(self.wheels, "tinymodel", "1.0", needs="has-to-be-compiled")
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON", "VIRTUAL_ENV"))},
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "PYTHON": str(PYTHON),
            "PYTHONUSERBASE": str(root / "user"),  # stands for packages that came with the interpreter
        }

    def setup(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.root / "scripts" / "setup", *args],
            env={**self.env, **env}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip

    def where(self, module: str) -> str:
        """The file of a module in the virtual environment, or "" where there is none."""
        asked = f"import importlib.util as u; s = u.find_spec({module!r}); print(s.origin if s else '')"
        found = subprocess.run(
            [self.root / ".venv/bin/python", "-c", asked], env=self.env, text=True, capture_output=True, check=True
        )
        return found.stdout.strip()

    def versions(self) -> list[str]:
        found = (self.root / ".venv").glob("lib/python*/site-packages/*.dist-info")
        return sorted(
            p.name.removesuffix(".dist-info") for p in found if not p.name.startswith(("pip-", "setuptools-"))
        )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that was set up once; tests may add to it."""
    project = Project(tmp_path_factory.mktemp("project"))
    done = project.setup()
    assert done.returncode == 0, done.stdout
    return project


def test_the_first_set_up_installs_what_is_pinned_and_the_model_without_its_dependencies(finished: Project) -> None:
    assert finished.versions() == ["tinyapp-1.0", "tinymodel-1.0", "torch-2.13.0"]


def test_packages_are_compiled_whatever_the_environment_says_of_bytecode(finished: Project) -> None:
    assert list((finished.root / ".venv").glob("lib/python*/site-packages/tinyapp/__pycache__/*.pyc"))


def test_a_second_set_up_has_nothing_to_do_and_needs_no_network(finished: Project) -> None:
    again = finished.setup(PIP_FIND_LINKS="/nowhere")
    assert (again.returncode, again.stdout) == (0, "")


def test_the_virtual_environment_itself_leads_to_the_same_set_up(finished: Project) -> None:
    again = finished.setup(PYTHON="", PATH=f"{finished.root}/.venv/bin:/usr/bin:/bin", PIP_FIND_LINKS="/nowhere")
    assert (again.returncode, again.stdout) == (0, "")


def test_a_failed_install_shows_all_of_pip_and_the_next_one_goes_on(finished: Project) -> None:
    failed = finished.setup("--dev", PIP_FIND_LINKS="/nowhere")
    assert failed.returncode == 1
    assert "No matching distribution found for tinydev" in failed.stdout
    assert "Check the network" in failed.stdout
    repaired = finished.setup("--dev")
    assert repaired.returncode == 0, repaired.stdout
    assert "Making" not in repaired.stdout
    assert "tinydev-1.0" in finished.versions()


def test_a_changed_requirement_is_installed(finished: Project) -> None:
    write_wheel(finished.wheels, "tinyextra", "1.0")
    with (finished.root / "requirements.txt").open("a") as file:
        file.write("tinyextra\n")
    again = finished.setup()
    assert again.returncode == 0, again.stdout
    assert "tinyextra-1.0" in finished.versions()


def test_two_at_once_wait_for_each_other_and_an_interrupted_one_is_made_anew(tmp_path: Path) -> None:
    project = Project(tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(PYTHON)
    (tmp_path / ".venv" / ".setup-unfinished").touch()
    (tmp_path / ".venv" / "half-written").touch()
    command = [tmp_path / "scripts" / "setup"]
    both = [
        subprocess.Popen(command, env=project.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(2)
    ]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted("Set-up is complete." in words for words in said) == [False, True]
    assert "tinyapp-1.0" in project.versions()
    assert not (tmp_path / ".venv" / "half-written").exists()


def test_a_fitting_torch_at_hand_is_used_and_not_replaced(tmp_path: Path) -> None:
    project = Project(tmp_path)
    bring_torch(tmp_path / "user", "2.12.1+cu128")
    done = project.setup()
    assert done.returncode == 0, done.stdout
    assert project.versions() == ["tinyapp-1.0", "tinymodel-1.0"]
    assert project.where("torch").startswith(str(tmp_path / "user"))
    assert project.setup(PIP_FIND_LINKS="/nowhere").stdout == ""


def test_a_torch_that_cannot_be_imported_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONUSERBASE", str(tmp_path))
    bring_torch(tmp_path, "2.12.1+cu128", code="raise ImportError('libcudart.so.13: cannot open')")
    assert not setup.imports_torch()
    assert "libcudart.so.13: cannot open" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("version", "fits"),
    [
        ("2.11.0", True), ("2.11.0+cu128", True), ("2.13.1", True), ("2.12.0a0+git1234", True),
        ("2.11.0a0+nv26.01", False), ("2.11.0rc1", False), ("2.10.1", False), ("1.13.1", False), ("3.0.0", False),
        ("odd", False), (None, False),
    ],
)  # fmt: skip
def test_which_torch_fits(version: str | None, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def of(name: str) -> str:
        if version is None:
            raise PackageNotFoundError(name)
        return version

    monkeypatch.setattr(setup.importlib.metadata, "version", of)
    assert setup.fitting_torch() == (version if fits else "")


def test_a_python_without_venv_is_told_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(setup.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        setup.make_venv(False)
    assert f"apt install python3.{sys.version_info[1]}-venv" in capsys.readouterr().err


def old_python(folder: Path) -> Path:
    """An interpreter that refuses everything, as a too old one refuses the version check."""
    fake = folder / "python3"
    fake.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.10.4" && exit 0\nexit 1\n')
    fake.chmod(0o755)
    return fake


def test_an_unfitting_python_that_was_asked_for_is_refused(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    refused = project.setup(PYTHON=str(old_python(tmp_path)))
    assert refused.returncode == 1
    assert "not a Python of version 3.11 or later" in refused.stdout


@pytest.mark.skipif(Path("/opt/conda").exists(), reason="this machine has a conda to find")
def test_where_no_python_fits_the_ways_out_are_named(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    tools = tmp_path / "bin"
    tools.mkdir()
    old_python(tools)
    for tool in ("sh", "dirname", "cat"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    refused = project.setup(PYTHON="", PATH=str(tools), HOME=str(tmp_path))
    assert refused.returncode == 1
    assert "python3 here: Python 3.10.4" in refused.stdout
    for remedy in ("apt install", "conda create", "make run PYTHON="):
        assert remedy in refused.stdout


def test_a_taken_port_is_named_with_a_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match=f"Port {port} is taken .* make run PORT=6007"):
            run.check_free("127.0.0.1", port)
    run.check_free("127.0.0.1", port)


def test_port_and_address_come_from_the_config_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PORT", "STREAMLIT_SERVER_PORT", "STREAMLIT_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    assert run.where() == ("127.0.0.1", 6006)
    monkeypatch.setenv("PORT", "7000")
    assert run.where() == ("127.0.0.1", 7000)


@pytest.mark.parametrize("port", ["0", "70000", "six", "-1", "6006 "])
def test_a_port_that_cannot_be_one_is_refused(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", port)
    with pytest.raises(SystemExit, match="whole number from 1 to 65535"):
        run.where()

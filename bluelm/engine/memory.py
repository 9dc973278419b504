"""How much memory there is for the KV cache, and how many tokens fit into it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bluelm.errors import NotEnoughMemory, OutOfMemory

GB = 10**9
CONTEXT_BYTES = 600 << 20  # CUDA's own, before anything is computed: at most so much
SHARE_FREE = 0.02  # of the card, left to others whatever the settings say
HOST_SHARE = 0.25  # of the memory that is left on a machine without a card
FEWEST_TOKENS = 256  # a cache below this answers nobody
REMEDY = "take a smaller checkpoint, or lower BLUELM_CONTEXT, BLUELM_CACHE_TOKENS or BLUELM_MAX_RUNNING"
CARD_REMEDY = (
    "set BLUELM_QUANTIZATION to int4, take a smaller checkpoint, lower BLUELM_CONTEXT, BLUELM_CACHE_TOKENS or "
    "BLUELM_MAX_RUNNING, raise BLUELM_GPU_MEMORY, or end other programs that use the card"
)


def card_memory() -> tuple[int, int]:
    """Free bytes of the current card, as all its processes leave them, and its total."""
    import torch

    return torch.cuda.mem_get_info()


@dataclass(frozen=True, slots=True)
class Card:
    """The card that is computed on. total, free: bytes, as CUDA had started; room: what PyTorch may take in all."""

    total: int
    free: int
    room: int

    @classmethod
    def take(cls, asked: float) -> Card:
        """Limit PyTorch on the current card to what the settings give. asked: see `card_room`."""
        import torch

        free, total = card_memory()
        room = card_room(asked, free, total)
        torch.cuda.set_per_process_memory_fraction(min(room / total, 1.0))
        return cls(total, free, room)

    def tidy(self) -> None:
        """Give back what PyTorch holds and does not use."""
        import torch

        torch.cuda.empty_cache()

    def left(self) -> int:
        """Bytes that can still be taken."""
        import torch

        free, _ = card_memory()
        used = max(torch.cuda.memory_reserved(), self.free - free)  # what kernels take is in the latter alone
        return min(self.room - used, free - int(SHARE_FREE * self.total))


def card_room(asked: float, free: int, total: int) -> int:
    """Bytes that PyTorch may take in all, from a card that has `free` left once CUDA has started.

    asked: settings.gpu_memory, a share of the card up to 1, else GB; CUDA's own part is in it.
    """
    limit = asked * total if asked <= 1 else asked * GB
    own = min(total - free, CONTEXT_BYTES)
    return max(int(min(limit - own, free - SHARE_FREE * total)), 0)


def tokens_for(room: int, token_bytes: int, *, most: int, block_size: int) -> int:
    """Tokens of cache, in whole blocks, that `room` bytes hold, `most` at most; one block more is left for padding."""
    blocks = min(room // (token_bytes * block_size) - 1, -(-most // block_size))
    return max(blocks, 0) * block_size


def host_memory() -> int:
    """Bytes that can still be taken on this machine, or in this container."""
    free = [_available()]
    with suppress(OSError, ValueError):  # no such files, or "max": no limit
        group = Path("/sys/fs/cgroup")
        said = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        cached = int(said["active_file"]) + int(said["inactive_file"])  # given back when it is needed
        used = int((group / "memory.current").read_text()) - cached
        free.append(int((group / "memory.max").read_text()) - used)
    return max(min(free), 0)


def _available() -> int:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def step_fits() -> Iterator[None]:
    """Around a step: PyTorch's error for memory that is not there becomes OutOfMemory."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"The memory is not enough for this step ({_told(error)}): {CARD_REMEDY}.") from error
    except (MemoryError, RuntimeError) as error:
        if not _of_host_memory(error):
            raise
        raise OutOfMemory(f"The memory is not enough for this step ({_told(error)}): {REMEDY}.") from error


@contextmanager
def loading_fits() -> Iterator[None]:
    """Around a load: the same becomes NotEnoughMemory."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise NotEnoughMemory(f"The model does not fit on the card ({_told(error)}): {CARD_REMEDY}.") from error
    except (MemoryError, RuntimeError) as error:
        if not _of_host_memory(error):
            raise
        raise NotEnoughMemory(f"The model does not fit in memory ({_told(error)}): {REMEDY}.") from error


def _of_host_memory(error: BaseException) -> bool:
    """Whether it is how PyTorch tells that the machine's own memory is not enough.

    oneDNN's "could not create a primitive" is not in the list: it never forgets that, so the process has to end.
    """
    words = ("can't allocate memory", "bad_alloc", "could not create a memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _told(error: BaseException) -> str:
    """PyTorch's own sentences on what it asked for and what there was."""
    line = (str(error).splitlines() or [""])[0] or type(error).__name__
    return line[:200].rstrip(". ")

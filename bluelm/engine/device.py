"""Where the model runs: which device, whether the kernels for cards work there, and in what precision."""

from __future__ import annotations

import ctypes
import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from bluelm.config import Settings
from bluelm.errors import SettingError

if TYPE_CHECKING:
    import torch

KERNELS_FROM = (8, 0)  # compute capability: asynchronous copies, bfloat16
log = logging.getLogger("bluelm.engine")


def awaken(settings: Settings) -> None:
    """Start CUDA on a thread while PyTorch is being imported, which takes as long and finds it started then."""
    if settings.device == "cpu":
        return

    def start() -> None:
        with suppress(OSError, AttributeError):  # no driver: PyTorch tells what is wrong
            cuda, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p()
            if cuda.cuInit(0) == 0:
                cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), _number(settings.device))

    threading.Thread(target=start, name="cuda", daemon=True).start()


def choose(settings: Settings) -> torch.device:
    """The device that the settings ask for; by themselves a card that works, else the CPU. Raises SettingError.

    Of several cards it is the first (a fleet shows each of its processes one card, see bluelm.engine.fleet).
    """
    import torch

    if settings.device == "cpu":
        return torch.device("cpu")
    why = unusable(settings.device)
    if not why:
        device = torch.device("cuda", _number(settings.device))
        torch.cuda.set_device(device)
        return device
    if settings.device == "auto":
        if torch.version.cuda:
            log.warning("computing on the CPU: %s", why)
        return torch.device("cpu")
    raise SettingError(f"BLUELM_DEVICE is {settings.device}, but {why}: set it to cpu or auto.", param="device")


def unusable(asked: str) -> str:
    """Why the card that is asked for ("auto", "cuda", "cuda:1") cannot be computed on; "" if it can."""
    import torch

    if not torch.cuda.is_available():
        return "torch finds no GPU"
    if _number(asked) >= torch.cuda.device_count():
        return f"torch finds {torch.cuda.device_count()} cards, numbered from 0"
    try:  # a PyTorch without code for this card finds it all the same
        torch.ones(8, device=f"cuda:{_number(asked)}").sum().item()
    except RuntimeError as error:
        return f"this PyTorch cannot compute on the card ({str(error).splitlines()[0]})"
    return ""


def _number(asked: str) -> int:
    return int(asked.partition(":")[2].split(",")[0] or 0)


def without_kernels(settings: Settings, device: torch.device, dtype: torch.dtype) -> str:
    """Why plain PyTorch operations are to be used on this device; "" where the kernels can be."""
    import torch

    if device.type != "cuda":
        return "it is no card"
    if settings.kernels == "plain":
        return "BLUELM_KERNELS is plain"
    if dtype is torch.float32:
        return "they compute in 16 bits"
    if torch.cuda.get_device_capability(device) < KERNELS_FROM:
        return (
            f"{torch.cuda.get_device_name(device)} is older than compute capability {KERNELS_FROM[0]}.{KERNELS_FROM[1]}"
        )
    try:
        from bluelm.engine.gpu.rows import gate

        torch.cuda.set_device(device)  # of this thread
        halves, out = (torch.ones(1, width, dtype=dtype, device=device) for width in (4, 2))
        gate(halves, out)
        torch.cuda.synchronize(device)
    except Exception as error:  # Triton is missing, has no C compiler, does not know the card: each has its own
        return f"Triton does not work here ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})"
    return ""


def without_native(settings: Settings, device: torch.device, dtype: torch.dtype) -> str:
    """Why plain PyTorch operations are to be used for matrices of 4 or 8 bits on a CPU; "" where its kernels can be."""
    import torch

    if device.type != "cpu":
        return "it is a card"
    if settings.kernels == "plain":
        return "BLUELM_KERNELS is plain"
    if dtype is not torch.bfloat16:
        return "their cache is in bfloat16"
    from bluelm.engine import native

    return native.missing()


def half_precision(device: torch.device) -> torch.dtype:
    """bfloat16, or float16 on a card that has no arithmetic for it."""
    import torch

    older = device.type == "cuda" and torch.cuda.get_device_capability(device) < KERNELS_FROM
    return torch.float16 if older else torch.bfloat16

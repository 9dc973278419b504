"""A checkpoint's tensors on their way to a card: through pinned memory, ahead of those who ask for them.

A copy out of a mapped file runs at the speed at which the system maps its pages, on one thread. So a thread of its
own, with PyTorch's threads behind it, copies into pinned buffers, from which the card fetches by itself, while the
caller puts together what has arrived.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

BUFFER = 64 << 20  # bytes
BUFFERS = 3
AHEAD = 1 << 30  # bytes on the device that nobody has asked for yet, where they are not kept as they are


class Upload:
    """Gives each tensor of `names` once, on the device, in any order, fastest in this one.

    read: gives a tensor by name, mapped, on the CPU; called on one thread at a time. What it raises, `tensor` raises.
    send: gives a copy on the device (Buffers.sent). ahead: bytes on the device that nobody has asked for yet.
    """

    def __init__(
        self, read: Callable[[str], Tensor], names: Sequence[str], send: Callable[[Tensor], Tensor], ahead: int = AHEAD
    ) -> None:
        self._read, self._send, self._ahead = read, send, ahead
        self._left = deque(names)
        self._there: dict[str, Tensor | BaseException] = {}
        self._bytes = 0
        self._asked: str | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._reading = threading.Lock()
        threading.Thread(target=self._run, name="upload", daemon=True).start()

    def tensor(self, name: str) -> Tensor:
        """One tensor, in the order of the device's default stream; on the CPU if it is none of `names`."""
        with self._changed:
            if name not in self._left and name not in self._there:
                with self._reading:
                    return self._read(name)
            self._asked = name
            self._changed.notify_all()
            self._changed.wait_for(lambda: name in self._there)
            found = self._there.pop(name)
            self._asked = None
            if isinstance(found, BaseException):
                raise found
            self._bytes -= found.nbytes
            self._changed.notify_all()
            return found

    def close(self) -> None:
        """Read no more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        while name := self._next():
            found: Tensor | BaseException
            try:
                with self._reading:
                    found = self._send(self._read(name))
            except BaseException as error:
                found = error
            with self._changed:
                self._left.popleft()
                self._there[name] = found
                self._bytes += found.nbytes if isinstance(found, Tensor) else 0
                self._changed.notify_all()

    def _next(self) -> str | None:
        """The next name, once it is asked for or there is room; None at the end."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or not self._left or self._bytes < self._ahead or self._asked in self._left
            )
            return None if self._closed or not self._left else self._left[0]


class Buffers:
    """Pinned memory, some buffers in turn, so that one is filled while the card fetches another."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: list[Tensor] = []
        self._fetched: list[torch.cuda.Event] = []
        self._turn = 0

    def sent(self, tensor: Tensor) -> Tensor:
        """The tensor on the device; its last bytes may still be on their way, in the order of the current stream."""
        with torch.cuda.device(self._device):
            out = torch.empty(tensor.shape, dtype=tensor.dtype, device=self._device)
            source, target = flat(tensor), flat(out)
            for start in range(0, source.numel(), BUFFER):
                some = source[start : start + BUFFER]
                buffer, fetched = self._free()
                buffer[: some.numel()].copy_(some)
                target[start : start + BUFFER].copy_(buffer[: some.numel()], non_blocking=True)
                fetched.record()
        return out

    def _free(self) -> tuple[Tensor, torch.cuda.Event]:
        if len(self._buffers) < BUFFERS:
            self._buffers.append(torch.empty(BUFFER, dtype=torch.uint8, pin_memory=True))
            self._fetched.append(torch.cuda.Event())
            self._turn = len(self._buffers) - 1
        else:
            self._turn = (self._turn + 1) % BUFFERS
            self._fetched[self._turn].synchronize()
        return self._buffers[self._turn], self._fetched[self._turn]


def flat(tensor: Tensor) -> Tensor:
    """Its bytes: [n] uint8."""
    return tensor.contiguous().view(-1).view(torch.uint8)

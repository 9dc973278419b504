"""The KV cache's book-keeping: which block holds what, who uses it, what can be reused. Plain data, no torch.

A block holds the keys and values of `block_size` consecutive tokens. A full block is published under a digest of
all tokens up to its end, so that another prompt with the same beginning can share it. A block nobody uses keeps its
content until it is needed: the least recently released goes first, a prompt's tail before its head.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b


def digest(parent: bytes, tokens: Sequence[int], whose: bytes = b"") -> bytes:
    """Names the text that ends with `tokens`; `parent` names what stands before (b"" at the start).

    whose: makes it a name of theirs alone, up to 64 bytes. A cryptographic digest, since a collision would show one
    user's text to another.
    """
    return blake2b(parent + array("q", tokens).tobytes(), digest_size=16, key=whose).digest()


class BlockPool:
    """Blocks 0 .. blocks-1, each free, or used by one or more sequences."""

    def __init__(self, blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self._uses = [0] * blocks
        self._name: list[bytes | None] = [None] * blocks
        self._block_named: dict[bytes, int] = {}
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(blocks))

    @property
    def total(self) -> int:
        return len(self._uses)

    @property
    def free(self) -> int:
        """Blocks that can be handed out now (what they still remember is then forgotten)."""
        return len(self._free)

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold this many tokens."""
        return -(-tokens // self.block_size)

    def match(
        self, tokens: Sequence[int], whose: Callable[[int], bytes] = lambda end: b""
    ) -> tuple[list[int], list[bytes]]:
        """Blocks that hold the longest known beginning of `tokens`, whole blocks only, and their names.

        whose: of a block by where it ends, as `digest` has it; everybody's if not given.
        Never all of `tokens`: at least one is left to compute, since its logits are wanted.
        """
        blocks: list[int] = []
        names: list[bytes] = []
        name = b""
        for start in range(0, len(tokens) - self.block_size, self.block_size):
            end = start + self.block_size
            name = digest(name, tokens[start:end], whose(end))
            block = self._block_named.get(name)
            if block is None:
                break
            blocks.append(block)
            names.append(name)
        return blocks, names

    def unused(self, blocks: Sequence[int]) -> int:
        """How many of these are free at the moment: sharing them takes that many from `free`."""
        return sum(self._uses[block] == 0 for block in blocks)

    def share(self, blocks: Sequence[int]) -> None:
        """Use these blocks too (found by `match`)."""
        for block in blocks:
            if self._uses[block] == 0:
                del self._free[block]
            self._uses[block] += 1

    def take(self) -> int | None:
        """A block for new content, or None when all are in use."""
        if not self._free:
            return None
        block, _ = self._free.popitem(last=False)
        name = self._name[block]
        if name is not None:
            del self._block_named[name]
            self._name[block] = None
        self._uses[block] = 1
        return block

    def publish(self, block: int, name: bytes) -> None:
        """Tell that a block in use is full and holds what `name` names; the first block of a name keeps it."""
        if self._name[block] is None and name not in self._block_named:
            self._name[block] = name
            self._block_named[name] = block

    def release(self, blocks: Sequence[int]) -> None:
        """Use these blocks no more."""
        for block in reversed(blocks):
            self._uses[block] -= 1
            if self._uses[block] == 0:
                self._free[block] = None
                if self._name[block] is None:  # nothing to remember: hand it out first
                    self._free.move_to_end(block, last=False)

    def check(self) -> None:
        """Raise AssertionError if a block is lost or counted twice (tests)."""
        assert all(uses >= 0 for uses in self._uses)
        assert set(self._free) == {block for block, uses in enumerate(self._uses) if uses == 0}
        assert all(self._name[block] == name for name, block in self._block_named.items())
        assert sum(name is not None for name in self._name) == len(self._block_named)

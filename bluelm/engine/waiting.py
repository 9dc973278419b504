"""Who is next: rows that wait, by share. Shares are served in turn, and within one share who came first is first.

A share is a browser, a key or an address (types.Caller). A client with a hundred requests has one share, as has a
client with a single one, who therefore is next.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heapreplace
from typing import Generic, Protocol, TypeVar


class Shared(Protocol):
    @property
    def share(self) -> str: ...


R = TypeVar("R", bound=Shared)


class Waiting(Generic[R]):
    """A queue for each share. The shares are in the order in which they were served, the longest ago first."""

    def __init__(self) -> None:
        self._shares: OrderedDict[str, deque[R]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._shares.values()))

    def __iter__(self) -> Iterator[R]:
        return (row for rows in self._shares.values() for row in rows)

    def __contains__(self, row: object) -> bool:
        return any(row in rows for rows in self._shares.values())

    def add(self, row: R) -> None:
        self._shares.setdefault(row.share, deque()).append(row)

    def put_back(self, row: R) -> None:
        """As the first of its share."""
        self._shares.setdefault(row.share, deque()).appendleft(row)

    def remove(self, row: R) -> None:
        rows = self._shares[row.share]
        rows.remove(row)
        if not rows:
            del self._shares[row.share]

    def next(self, running: Iterable[R]) -> R:
        """The first row of the share that has the fewest running; the one served longest ago of several such."""
        counts = Counter(row.share for row in running)
        return self._shares[min(self._shares, key=lambda share: counts[share])][0]

    def in_turn(self, running: Iterable[R]) -> list[R]:
        """All of them, in the order in which they would be served if nobody else came, and nobody running ended."""
        counts = Counter(row.share for row in running)
        heap = [(counts[share], place, 0, share) for place, share in enumerate(self._shares)]
        heapify(heap)
        order: list[R] = []
        while heap:
            count, _, taken, share = heap[0]
            rows = self._shares[share]
            order.append(rows[taken])
            if taken + 1 < len(rows):
                heapreplace(heap, (count + 1, len(self._shares) + len(order), taken + 1, share))
            else:
                heappop(heap)
        return order

    def take(self, row: R) -> None:
        """`next` was served."""
        self._shares.move_to_end(row.share)
        self.remove(row)


def surplus(row: R, running: Iterable[R]) -> R | None:
    """Whose place `row` may have at once: the youngest of the share with the most running, if `row`'s own has none.

    running: oldest first. None where nobody has more than one.
    """
    rows = list(running)
    counts = Counter(one.share for one in rows)
    if counts[row.share] or max(counts.values(), default=0) < 2:
        return None
    most = max(counts.values())
    return next(one for one in reversed(rows) if counts[one.share] == most)

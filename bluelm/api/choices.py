"""Several answers to one request: how their seeds differ, and how their pieces come one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from hashlib import blake2b

from bluelm.engine import Generation
from bluelm.sampling import SEED_LIMIT
from bluelm.types import Chunk, SamplingParams

MOST = 128  # in one request, as in OpenAI's API


def choice(params: SamplingParams, index: int) -> SamplingParams:
    """The settings of one of several answers to the same prompt: the first is the one that a single answer would be."""
    if params.seed is None or index == 0:
        return params
    digest = blake2b(f"{params.seed} {index}".encode(), digest_size=8).digest()
    return replace(params, seed=int.from_bytes(digest, "big") % SEED_LIMIT)


async def interleaved(generations: Sequence[Generation]) -> AsyncIterator[tuple[int, Chunk]]:
    """Every chunk with the place of its generation, as they come. Raises the error of the first that fails."""
    if len(generations) == 1:
        async with aclosing(generations[0].__aiter__()) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                yield 0, chunk
        return
    streams = [generation.__aiter__() for generation in generations]
    coming = {asyncio.ensure_future(anext(stream, None)): i for i, stream in enumerate(streams)}
    try:
        while coming:
            done, _ = await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)
            for one in sorted(done, key=coming.__getitem__):
                i, got = coming.pop(one), one.result()
                if got is not None:
                    coming[asyncio.ensure_future(anext(streams[i], None))] = i
                    yield i, got
    finally:
        for one in coming:
            one.cancel()
        await asyncio.gather(*coming, return_exceptions=True)
        for stream in streams:
            await stream.aclose()  # type: ignore[attr-defined]

"""Tensors read ahead on a thread: each once, in any order, with its errors; the card's part is a function here."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bluelm.engine.upload import Upload, flat
from bluelm.errors import CheckpointError

TENSORS = {name: torch.full((4, 25), float(i)) for i, name in enumerate("abcdefgh")}


@settings(max_examples=60)
@given(
    names=st.permutations(list(TENSORS)), asked=st.permutations(list(TENSORS)), ahead=st.sampled_from([1, 450, 10**6])
)
def test_every_tensor_arrives_once_in_any_order(names: list[str], asked: list[str], ahead: int) -> None:
    sent: list[Tensor] = []

    def send(tensor: Tensor) -> Tensor:
        sent.append(tensor)
        return tensor.clone()

    reading = Upload(TENSORS.__getitem__, names[:6], send, ahead)
    for name in asked:
        assert torch.equal(reading.tensor(name), TENSORS[name])
    reading.close()
    assert len(sent) == 6, "what was not named goes past the thread"


def test_it_does_not_read_far_ahead() -> None:
    read: list[str] = []
    there = threading.Semaphore(0)

    def read_one(name: str) -> Tensor:
        read.append(name)
        there.release()
        return TENSORS[name]

    reading = Upload(read_one, list(TENSORS), torch.clone, ahead=800)  # two tensors
    assert there.acquire(timeout=10) and there.acquire(timeout=10)
    assert not there.acquire(timeout=0.2) and read == ["a", "b"]
    reading.tensor("a")
    assert there.acquire(timeout=10) and read == ["a", "b", "c"]
    reading.close()


def test_what_goes_wrong_is_raised_to_who_asks() -> None:
    def read(name: str) -> Tensor:
        if name == "b":
            raise CheckpointError("b is damaged")
        return TENSORS[name]

    reading = Upload(read, list("abc"), torch.clone)
    reading.tensor("a")
    with pytest.raises(CheckpointError, match="b is damaged"):
        reading.tensor("b")
    assert torch.equal(reading.tensor("c"), TENSORS["c"])


def test_the_bytes_of_any_tensor() -> None:
    for tensor in (torch.arange(6).view(2, 3).T, torch.tensor(3.0), torch.ones(3, dtype=torch.bfloat16)):
        assert flat(tensor).numel() == tensor.nbytes
        again = torch.empty_like(tensor, memory_format=torch.contiguous_format)
        flat(again).copy_(flat(tensor))
        assert torch.equal(again, tensor)

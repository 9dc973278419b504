"""A checkpoint that gives no numbers (NaN) after one token: whose answer meets it ends, and nobody else is touched."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sentencepiece
import torch

from bluelm.config import load_settings
from bluelm.engine.client import EngineProcess
from bluelm.errors import GenerationFailed
from bluelm.types import Message, Role, SamplingParams
from tests.checkpoints import bluelm_config, random_tensors, write_checkpoint
from tests.test_engine import wait_ready
from tests.tiny import BLOCK, engine_parts, row, step, tiny_llama

POISON = "猫"  # a piece of its own


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    folder = tmp_path_factory.mktemp("models") / "BlueLM-7B-Chat"
    tensors = random_tensors(bluelm_config())
    write_checkpoint(folder, tensors=tensors)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    poison = pieces.piece_to_id(POISON)
    assert poison != pieces.unk_id()
    tensors["model.embed_tokens.weight"][poison] = torch.nan
    write_checkpoint(folder, tensors=tensors)
    engine = EngineProcess(load_settings(model=str(folder), threads=1, device="cpu", cache_tokens=512, max_running=4))
    wait_ready(engine)
    yield engine
    engine.close()


def said(engine: EngineProcess, text: str) -> str:
    return "".join(chunk.text for chunk in engine.submit((Message(Role.USER, text),), PARAMS))


PARAMS = SamplingParams(temperature=0.0, max_length=24)


def test_an_answer_without_numbers_fails_alone(engine: EngineProcess) -> None:
    alone = [said(engine, f"{i} The weather is fine") for i in range(3)]
    good = [engine.submit((Message(Role.USER, f"{i} The weather is fine"),), PARAMS) for i in range(3)]
    bad = engine.submit((Message(Role.USER, f"小{POISON}在窗台上睡觉"),), PARAMS)
    with pytest.raises(GenerationFailed, match="NaN"):
        list(bad)
    assert ["".join(chunk.text for chunk in one) for one in good] == alone
    assert engine.state().restarts == 0


def test_what_it_left_in_the_cache_harms_nobody(engine: EngineProcess) -> None:
    """Blocks go from one to the next until all of them have held it."""
    before = said(engine, "What is the capital of France?")
    for i in range(40):
        with pytest.raises(GenerationFailed):
            said(engine, f"{i} {POISON} The cat sleeps on the window sill while the dog runs around the yard.")
    assert said(engine, "What is the capital of France?") == before
    assert all(said(engine, f"{i} Please translate the following sentence") is not None for i in range(20))
    assert engine.state().restarts == 0


def test_a_row_reads_no_part_of_a_block_that_it_did_not_write() -> None:
    model, _ = tiny_llama()
    texts = []
    for filled in (0.0, torch.nan):
        scheduler, runner = engine_parts(model, blocks=4)
        runner.cache.keys.fill_(filled)
        runner.cache.values.fill_(filled)
        rows = [row("a", [1, 2, 3], 20), row("b", [4] * (BLOCK + 1), 9)]
        for one in rows:
            scheduler.add(one)
        while not scheduler.idle:
            step(scheduler, runner)
        texts.append([one.tokens for one in rows])
    assert texts[0] == texts[1] and -1 not in texts[1][0]

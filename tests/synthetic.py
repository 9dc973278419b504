"""A small SentencePiece model of the kind BlueLM has, trained on the spot from some sentences of ours."""

from __future__ import annotations

import io
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import sentencepiece

MARKERS = ("[|Human|]:", "[|AI|]:", "[|SYSTEM|]:", "[|Function|]:", "[SEA]", "[SEH]")

SENTENCES = """
今天天气很好，我们一起去公园散步吧。 你好！很高兴见到你，有什么我可以帮助你的吗？ 请用三句话介绍一下北京的历史。
大语言模型可以回答问题、写文章、翻译句子，也可以写代码。 他每天早上六点起床，先跑步，再吃早饭。
小猫在窗台上睡觉，小狗在院子里跑。
春天来了，花开了，鸟儿在树上唱歌。 请把下面的句子翻译成英文。 我不知道这个问题的答案，但是可以帮你查一查。
一加一等于二，二加二等于四。
这本书讲的是一个老人和大海的故事。 火车将于下午三点二十五分到达上海。 学习编程要多写多练，遇到错误不要着急。
祝你生日快乐，万事如意！
The weather is fine today, so let us go for a walk in the park. What is the capital of France?
The capital of France is Paris.
A language model answers questions, writes stories, translates sentences and writes code.
She gets up at six and runs before breakfast.
The cat sleeps on the window sill while the dog runs around the yard.
Please translate the following sentence into Chinese.
I do not know the answer to this question, but I can help you to look it up.
One and one is two, and two and two is four.
This book tells the story of an old man and the sea. The train arrives at twenty five past three in the afternoon.
def add(left, right): return left + right. for i in range(10): print(i, i * 2).
{"answer": null, "name": "weather", "city": "北京"}
In 2023 there were 365 days, 12 months and 52 weeks; 3.14159 is close to pi. 2024年有366天。
电话是12345678，价格是99元。
"""


@lru_cache
def sentencepiece_model(**options: Any) -> bytes:
    """A `tokenizer.model`: BPE, byte fallback, single digits, the markers as user-defined pieces; about 900 pieces.

    options: of sentencepiece's trainer, instead of Llama's (no normalisation, all spaces kept).
    """
    settings = {
        "vocab_size": 900,
        "model_type": "bpe",
        "byte_fallback": True,
        "split_digits": True,
        "user_defined_symbols": list(MARKERS),
        "character_coverage": 0.98,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "pad_id": 3,
        "minloglevel": 2,
        **options,
    }
    out = io.BytesIO()
    lines = iter(SENTENCES.replace("。 ", "。\n").split("\n"))
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=out, **settings)
    return out.getvalue()


def bluelm_tokenizer_folder(path: Path, model: bytes | None = None, **config: Any) -> Path:
    """Write the tokenizer files of a BlueLM checkpoint into a folder. config: of tokenizer_config.json."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "tokenizer.model").write_bytes(model or sentencepiece_model())
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    config = {"tokenizer_class": "BlueLMTokenizer", **names, **config}
    (path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (path / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}), encoding="utf-8")
    return path

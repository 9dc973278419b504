"""What each precision costs in accuracy, against float32: `python -m bench.accuracy --out bench/results/accuracy.json`.

Two models: random weights in BlueLM's proportions, and the embedded demo model (its own 4-bit weights taken as exact).
On both the logits' relative error, in the Euclidean norm over all positions, and how often the likeliest token is the
same; of the demo model the perplexity of an English text, the first 4096 tokens of our README, in windows of 512.
16 bits are computed in 16 bits; 8 and 4 bits are rounded from bfloat16 as BLUELM_QUANTIZATION does it (4 bits also in
smaller groups), and computed in bfloat16. On a CPU; ten minutes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bluelm.config import ROOT
from bluelm.engine import native
from bluelm.engine.attention import Span, Step
from bluelm.engine.gguf_file import GGUFFile
from bluelm.engine.gguf_weights import gguf_config, load_gguf
from bluelm.engine.linear import Dense, Form, Linear, linear
from bluelm.engine.model import KVCache, Layer, Llama, LlamaConfig, Weights
from bluelm.engine.opening import embedded_model
from bluelm.engine.rounding import rounded, to_int4
from bluelm.engine.sizing import BLOCK_SIZE
from bluelm.engine.tokenizer import from_gguf
from bluelm.prompt import plain

CPU = torch.device("cpu")
WINDOW, WINDOWS = 512, 8  # tokens of a text that are read at once, and how often that is done at most
FORMS: dict[str, Form] = {
    "float32": Form(torch.float32),
    "float16": Form(torch.float16),
    "bfloat16": Form(torch.bfloat16),
    "int8": Form(torch.bfloat16, "int8"),
    "int4": Form(torch.bfloat16, "int4"),
}
RANDOM = LlamaConfig(
    vocab=8192, hidden=1024, intermediate=2752, layers=12, heads=8, kv_heads=8, head_dim=128, context=2048
)
TEXTS = ("README.md", "docs/architecture.md")  # the latter should the former be too short


def random_weights(config: LlamaConfig) -> Weights:
    def matrix(*shape: int) -> Dense:
        return Dense(torch.randn(*shape) * 0.02)

    layers = tuple(
        Layer(
            input_norm=torch.ones(config.hidden),
            qkv=matrix((config.heads + 2 * config.kv_heads) * config.head_dim, config.hidden),
            o=matrix(config.hidden, config.heads * config.head_dim),
            post_norm=torch.ones(config.hidden),
            gate_up=matrix(2 * config.intermediate, config.hidden),
            down=matrix(config.hidden, config.intermediate),
        )
        for _ in range(config.layers)
    )
    head = matrix(config.vocab, config.hidden)
    return Weights(torch.randn(config.vocab, config.hidden), layers, torch.ones(config.hidden), head, tied=False)


def kept(weights: Weights, form: Form, group: int = 0) -> Weights:
    """float32 weights in another form, as weights.assemble makes it. group: of 4 bits, if not what is chosen there."""
    assert form.dtype is not None
    dtype = form.dtype

    def product(matrix: Linear) -> Linear:
        assert isinstance(matrix, Dense)
        weight = matrix.weight.to(dtype)
        return linear(to_int4(weight, group) if group else rounded(weight, form.quantization), form)

    layers = tuple(
        Layer(
            layer.input_norm.to(dtype),
            product(layer.qkv),
            product(layer.o),
            layer.post_norm.to(dtype),
            product(layer.gate_up),
            product(layer.down),
        )
        for layer in weights.layers
    )
    assert isinstance(weights.lm_head, Dense)
    in_8_bits = form.quantization != "none" and not weights.tied
    head = linear(rounded(weights.lm_head.weight.to(dtype), "int8" if in_8_bits else "none"), form)
    return replace(
        weights, embedding=weights.embedding.to(dtype), layers=layers, norm=weights.norm.to(dtype), lm_head=head
    )


def every_form(weights: Weights) -> dict[str, Callable[[], Weights]]:
    forms: dict[str, Callable[[], Weights]] = {name: partial(kept, weights, form) for name, form in FORMS.items()}
    return forms | {"int4, groups of 32": partial(kept, weights, FORMS["int4"], 32)}


def logits(model: Llama, ids: Tensor) -> Tensor:
    """float32 [len(ids), vocab]; by the CPU's kernels where they serve the model."""
    places, cache = torch.arange(len(ids)), KVCache(model.config, WINDOW, model.weights.norm)
    if not native.missing():
        from bluelm.engine.native.llama import NativeLlama, Tokens, blocks_of

        if NativeLlama.serves(model):
            blocks = blocks_of([range(WINDOW // BLOCK_SIZE)]).expand(len(ids), -1).contiguous()
            tokens = Tokens(Step(ids, places, places, (), (), places), blocks)
            return model.logits(NativeLlama(model, cache, BLOCK_SIZE).hidden(tokens)).float()
    step = Step(ids, places, places, (), (Span(0, len(ids), places, None),), places)
    return model.forward(step, cache).float()


def compared(config: LlamaConfig, forms: dict[str, Callable[[], Weights]], windows: list[Tensor]) -> dict[str, Any]:
    """Each form's figures over all windows, the first form being the measure."""
    found: dict[str, Any] = {}
    exact: list[Tensor] = []
    for name, make in forms.items():
        model = Llama(config, make())
        off = size = same = surprise = count = 0.0
        for index, ids in enumerate(windows):
            got = logits(model, ids)
            if name == next(iter(forms)):
                exact.append(got)
            truth = exact[index]
            off += float((got - truth).square().sum())
            size += float(truth.square().sum())
            same += float((got.argmax(-1) == truth.argmax(-1)).sum())
            surprise += float(torch.nn.functional.cross_entropy(got[:-1], ids[1:], reduction="sum"))
            count += len(ids)
        found[name] = {
            "relative_error": round((off / size) ** 0.5, 6),
            "same_likeliest": round(same / count, 4),
            "perplexity": round(float(torch.tensor(surprise / (count - len(windows))).exp()), 3),
        }
        print(name, found[name], flush=True)
    return found


def on_random_weights() -> dict[str, Any]:
    torch.manual_seed(0)
    weights = random_weights(RANDOM)
    windows = [torch.randint(0, RANDOM.vocab, (WINDOW,)) for _ in range(2)]
    found = compared(RANDOM, every_form(weights), windows)
    for row in found.values():
        del row["perplexity"]  # of random tokens
    return {"model": f"random, hidden {RANDOM.hidden}, {RANDOM.layers} layers", "tokens": 2 * WINDOW, "forms": found}


def on_the_demo_model() -> dict[str, Any]:
    file = GGUFFile.open(embedded_model())
    config = replace(gguf_config(file), context=WINDOW)
    text = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in TEXTS)
    ids = torch.tensor(from_gguf(file.metadata).encode(plain(text)))
    weights = load_gguf(file, config, FORMS["float32"], CPU, lambda _: None)
    forms = every_form(weights)
    forms["the file's own 4 bits"] = lambda: load_gguf(file, config, Form(torch.bfloat16), CPU, lambda _: None)
    if not native.missing():
        by_kernels = Form(torch.bfloat16, native=True)
        forms["the same, by the CPU's kernels"] = lambda: load_gguf(file, config, by_kernels, CPU, lambda _: None)
    windows = [part for part in ids.split(WINDOW) if len(part) == WINDOW][:WINDOWS]
    return {
        "model": embedded_model().stem,
        "text": ", ".join(TEXTS),
        "tokens": len(windows) * WINDOW,
        "forms": compared(config, forms, windows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    args = parser.parse_args()
    result = {"torch": torch.__version__, "random": on_random_weights(), "demo": on_the_demo_model()}
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

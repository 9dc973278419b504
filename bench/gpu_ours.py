"""Our GPU engine on the shape of BlueLM-7B with random weights, one precision; part of `python -m bench.gpu`.

    python -m bench.gpu_ours [--precision bfloat16] [--streams 1 8 32 64] [--sampling greedy sampled] [--scenarios]

Requests go through the scheduler and the runner as the engine runs them; only characters are left out. Prints a JSON
row a line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch

from bench import gpu_scenarios
from bench.gpu_scenarios import Bench, random_tokens
from bluelm.engine.gpu.runner import GpuRunner
from bluelm.engine.linear import Form, Linear, Quantization, linear
from bluelm.engine.model import Layer, Llama, LlamaConfig, Weights
from bluelm.engine.rounding import rounded
from bluelm.engine.runner import Runner
from bluelm.types import SamplingParams

BLUELM_7B = LlamaConfig(
    vocab=100096, hidden=4096, intermediate=11008, layers=32, heads=32, kv_heads=32, head_dim=128, context=2048
)
TOKENIZER_SIZE, BLOCK = 100008, 16
PRECISIONS = ("bfloat16", "float16", "int8", "int4")
SAMPLINGS = {
    "greedy": SamplingParams(temperature=0.0),
    "sampled": SamplingParams(temperature=0.8, top_p=0.9),
    "sampled, top-k and penalty": SamplingParams(temperature=0.8, top_p=0.8, top_k=50, repetition_penalty=1.1),
}


def random_weights(config: LlamaConfig, precision: str) -> Weights:
    """precision: of PRECISIONS; what is in 8 or 4 bits is rounded from bfloat16, as it is when a checkpoint is read."""
    bits: Quantization = "int8" if precision == "int8" else "int4" if precision == "int4" else "none"
    dtype = torch.bfloat16 if bits != "none" else getattr(torch, precision)
    form = Form(dtype, bits, kernels=True)

    def matrix(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, device="cuda", dtype=dtype).normal_(0, 0.02)

    def product(*shape: int) -> Linear:
        return linear(rounded(matrix(*shape), bits), form)

    ones = torch.ones(config.hidden, device="cuda", dtype=dtype)
    width = (config.heads + 2 * config.kv_heads) * config.head_dim
    layers = tuple(
        Layer(
            input_norm=ones,
            qkv=product(width, config.hidden),
            o=product(config.hidden, config.heads * config.head_dim),
            post_norm=ones,
            gate_up=product(2 * config.intermediate, config.hidden),
            down=product(config.hidden, config.intermediate),
        )
        for _ in range(config.layers)
    )
    table = matrix(config.vocab, config.hidden)
    head = rounded(matrix(config.vocab, config.hidden), "none" if bits == "none" else "int8")
    return Weights(table, layers, ones, linear(head, form), tied=False)


def once(
    runner: Runner | GpuRunner, streams: int, prompt: int, new: int, params: SamplingParams, step_tokens: int
) -> dict[str, Any]:
    """Serve fresh random prompts once: seconds in all, until each first token, and of the steps that only decode."""
    bench = Bench(runner, TOKENIZER_SIZE, streams, step_tokens)
    prompts = [random_tokens(prompt, TOKENIZER_SIZE) for _ in range(streams)]
    begin = time.perf_counter()
    rows = [bench.ask(tokens, new, params, seed) for seed, tokens in enumerate(prompts)]
    bench.finish()
    whole = time.perf_counter() - begin
    return {
        "whole": whole,
        "firsts": [bench.times[row][1] - begin for row in rows],
        "decode": decode_rate(bench.decoding),
    }


def same_in_company(runner: Runner | GpuRunner, args: argparse.Namespace) -> dict[str, Any]:
    """Whether requests get the same tokens alone and among 31 others, with prompts of many lengths."""
    found: dict[str, Any] = {"row": "same in company", "requests": 4, "others": 31, "new_tokens": args.new}
    for name in args.sampling:
        prompts = [random_tokens(40 + 7 * i, TOKENIZER_SIZE) for i in range(32)]
        among = answers(runner, prompts, args, name)
        alone = [answers(runner, [prompt], args, name, seed=i)[0] for i, prompt in enumerate(prompts[:4])]
        found[name] = sum(one == other for one, other in zip(alone, among, strict=False))
    return found


def answers(
    runner: Runner | GpuRunner, prompts: list[list[int]], args: argparse.Namespace, sampling: str, seed: int = 0
) -> list[list[int]]:
    """All tokens of requests that are served together, with the seeds seed, seed + 1, .."""
    bench = Bench(runner, TOKENIZER_SIZE, 32, args.step_tokens)
    rows = [bench.ask(prompt, args.new, SAMPLINGS[sampling], seed + i) for i, prompt in enumerate(prompts)]
    bench.finish()
    return [row.tokens for row in rows]


def decode_rate(steps: list[tuple[int, float, float]]) -> float:
    """Tokens per second from the first step that only decodes to the last, the host's work between them included."""
    return sum(count for count, _, _ in steps[1:]) / (steps[-1][2] - steps[0][2]) if len(steps) > 1 else 0.0


def measure(runner: GpuRunner, streams: int, sampling: str, args: argparse.Namespace) -> dict[str, Any]:
    params = SAMPLINGS[sampling]
    runs = [
        once(runner, streams, args.prompt, args.new, params, args.step_tokens) for _ in range(args.repetitions + 1)
    ][1:]
    middle = sorted(runs, key=lambda run: run["whole"])[len(runs) // 2]
    return {
        "streams": streams,
        "sampling": sampling,
        "prompt_tokens": args.prompt,
        "new_tokens": args.new,
        "out_tokens_per_s": round(streams * args.new / middle["whole"], 1),
        "decode_tokens_per_s": round(middle["decode"], 1),
        "ttft_ms": round(1e3 * statistics.median(middle["firsts"]), 2),
        "out_tokens_per_s_of_all_runs": [round(streams * args.new / run["whole"], 1) for run in runs],
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=PRECISIONS, default="bfloat16")
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 8, 32, 64])
    parser.add_argument("--sampling", nargs="+", choices=list(SAMPLINGS), default=list(SAMPLINGS))
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new", type=int, default=256)
    parser.add_argument("--step-tokens", type=int, default=2048, help="prompt tokens computed in one step")
    parser.add_argument(
        "--exact", action="store_true", help="the same way for one row as for many, and a look whether that holds"
    )
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--scenarios", action="store_true", help="a chat's tenth turn, a newcomer, a long prompt")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    common = {"engine": "ours", "precision": args.precision, "exact": args.exact}

    def told(row: dict[str, Any]) -> None:
        print(json.dumps(common | row), flush=True)

    weights = random_weights(BLUELM_7B, args.precision)
    torch.cuda.empty_cache()
    torch.cuda.synchronize()
    weights_gb = torch.cuda.memory_allocated() / 1e9
    most = max(args.streams, default=0)
    if most:
        begin = time.perf_counter()
        blocks = most * -(-(args.prompt + args.new) // BLOCK) + 256
        runner = GpuRunner(
            Llama(BLUELM_7B, weights), blocks=blocks, block_size=BLOCK, vocab=TOKENIZER_SIZE, max_running=most,
            exact=args.exact,
        )  # fmt: skip
        while runner.prepare():
            pass
        told({"row": "ready", "weights_gb": round(weights_gb, 2), "kernels_s": round(time.perf_counter() - begin, 2)})
        for sampling in args.sampling:
            for streams in args.streams:
                told(measure(runner, streams, sampling, args))
        if most >= 32 and args.exact:
            told(same_in_company(runner, args))
        del runner
    if args.scenarios:
        for row in gpu_scenarios.measure(BLUELM_7B, weights, vocab=TOKENIZER_SIZE):
            told(row)


if __name__ == "__main__":
    main()

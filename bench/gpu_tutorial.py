"""The tutorial's path on the same shape: transformers' `generate`, eager, one request after another.

Part of `python -m bench.gpu`. Prints a JSON row a line. The tutorial keeps one model behind its page and its API, so
that several chats take their turns: its throughput for many is that for one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.generation.streamers import BaseStreamer

VOCAB = 100_008
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampled": {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "top_k": 0},
}


class Clock(BaseStreamer):
    """When each token came; the first call brings the prompt."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: object) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def model() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=100_096, hidden_size=4096, intermediate_size=11_008, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=32, max_position_embeddings=2048, rms_norm_eps=1e-6,
    )  # fmt: skip
    with torch.device("meta"):
        made = LlamaForCausalLM(config).bfloat16()
    made.to_empty(device="cuda")
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.02) if weight.dim() > 1 else torch.nn.init.ones_(weight)
    half = config.hidden_size // config.num_attention_heads
    frequencies = 10000.0 ** -(torch.arange(0, half, 2, device="cuda").float() / half)
    made.model.rotary_emb.inv_freq.copy_(frequencies)  # a buffer, which to_empty left unset
    made.generation_config.eos_token_id = None
    made.generation_config.pad_token_id = 0
    return made.eval()


def once(made: LlamaForCausalLM, prompt: int, new: int, settings: dict[str, Any]) -> tuple[float, float]:
    """Seconds in all, and until the first token."""
    ids = torch.randint(10, VOCAB, (1, prompt), device="cuda")
    clock = Clock()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    with torch.inference_mode():
        made.generate(ids, max_new_tokens=new, min_new_tokens=new, streamer=clock, **settings)  # type: ignore[misc]
    torch.cuda.synchronize()
    return time.perf_counter() - begin, clock.times[1] - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new", type=int, default=256)
    parser.add_argument("--repetitions", type=int, default=2)
    args = parser.parse_args()
    made = model()
    for name, settings in SAMPLINGS.items():
        once(made, args.prompt, args.new, settings)  # PyTorch takes memory for each length the first time
        runs = [once(made, args.prompt, args.new, settings) for _ in range(args.repetitions)]
        whole = statistics.median(run[0] for run in runs)
        first = statistics.median(run[1] for run in runs)
        row = {
            "engine": "tutorial", "precision": "bfloat16", "streams": 1, "sampling": name, "prompt_tokens": args.prompt,
            "new_tokens": args.new, "out_tokens_per_s": round(args.new / whole, 1),
            "decode_tokens_per_s": round((args.new - 1) / (whole - first), 1), "ttft_ms": round(1e3 * first, 2),
        }  # fmt: skip
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()

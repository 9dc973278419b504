"""llama.cpp's side of bench/cpu.py: `PYTHON llama_peer.py MODEL THREADS`, by a Python that has llama-cpp-python.

Says {"ready": seconds, "version": ...}, then answers each line {"questions": [...], "new": n} on stdin with one of
[{"prompt_tokens", "times": seconds of each token since the request came}, ...] on stdout. Questions are answered one
after another, as llama-cpp-python does it, which keeps what two of them begin with in common. Imports nothing of ours.
"""

import json
import sys
import time

begun = time.monotonic()
import llama_cpp  # noqa: E402

model, threads = sys.argv[1], int(sys.argv[2])
# Its fastest settings here: as many threads as cores, and its own fused attention.
llama = llama_cpp.Llama(
    model_path=model, n_ctx=2048, n_threads=threads, n_threads_batch=threads, flash_attn=True, verbose=False
)


def answer(question: str, new: int, asked: float) -> dict:
    times = []
    for chunk in llama.create_chat_completion(
        [{"role": "user", "content": question}], max_tokens=new, temperature=0.0, repeat_penalty=1.0, stream=True
    ):
        if "content" in chunk["choices"][0]["delta"]:
            times.append(time.monotonic() - asked)
    # The answer's last token was not taken in.
    return {"prompt_tokens": llama.n_tokens - len(times) + 1, "times": times}


def say(what: object) -> None:
    print(json.dumps(what), flush=True)


say({"ready": time.monotonic() - begun, "version": llama_cpp.__version__})
for line in sys.stdin:
    wanted = json.loads(line)
    asked = time.monotonic()
    say([answer(question, wanted["new"], asked) for question in wanted["questions"]])

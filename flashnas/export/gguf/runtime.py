"""llama.cpp in a process of its own: what a GGUF file computes there.

llama.cpp ends its process where a file breaks one of its rules. `ask` therefore runs this module as a child, which
reads a request from standard input and writes the answer to standard output. The child imports nothing of flashnas.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

TOP = 10  # tokens whose probabilities are read after each generated one
TIMEOUT_S = 3600.0


class RuntimeFailure(Exception):
    """The child did not answer; the message is one line."""


def ask(file: Path, *, prompts: list[list[int]], generate: int, never: list[int], texts: list[str], vocab: int,
        plain: int) -> dict[str, Any]:
    """What llama.cpp computes from a file, with caches in float32 and without flash attention.

    Args:
        file: the GGUF file.
        prompts: token ids; nothing is put in front of them.
        generate: tokens to generate greedily after the first prompt.
        never: tokens not to generate.
        texts: to be tokenized.
        vocab: tokens of the file.
        plain: a token of whole characters.

    Returns:
        "prefill": log-probabilities of all tokens after each prompt. "tokens": the generated ones. "decode": for each
        of them the ids and log-probabilities of the most likely tokens. "texts": token ids.

    Raises:
        RuntimeFailure: the child ended without an answer.
    """
    request = {"prompts": prompts, "generate": generate, "never": never, "texts": texts, "vocab": vocab, "plain": plain}
    try:
        child = subprocess.run([sys.executable, __file__, str(file)], input=json.dumps(request), capture_output=True,
                               text=True, errors="replace", timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeFailure(f"llama.cpp did not answer within {TIMEOUT_S:.0f} s") from None
    if child.returncode:
        how = f"exit code {child.returncode}"
        if child.returncode < 0:
            how = signal.Signals(-child.returncode).name
        raise RuntimeFailure(f"llama.cpp ended with {how}: {_reason(child.stderr)}")
    found: dict[str, Any] = json.loads(child.stdout)
    return found


def _reason(stderr: str) -> str:
    """The line of an error output that says most."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    for sign in ("GGML_ASSERT", "error loading model:", "rror"):
        for line in lines:
            if sign in line:
                return line
    return lines[-1] if lines else "without a message"


def _main(path: str) -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints is not part of the answer
    request = json.load(sys.stdin)
    from xllamacpp import CommonParams, Server

    params = CommonParams()
    params.model.path = path
    longest = max((len(prompt) for prompt in request["prompts"]), default=1)
    params.n_ctx = longest + request["generate"] + 8
    params.n_parallel, params.n_gpu_layers, params.warmup, params.fit_params = 1, 0, False, False
    params.cache_type_k = params.cache_type_v = 0  # float32
    params.flash_attn_type = 0  # off
    params.verbosity = 1  # errors only
    # one thread: two that wait for each other in a loop take up to 100 times as long on a busy machine
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = Server(params)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def post(name: str, **question: Any) -> Any:
        body = json.dumps(question).encode()
        with opener.open(urllib.request.Request(f"{server.listening_address}/{name}", body,
                                                {"Content-Type": "application/json"})) as reply:
            return json.load(reply)

    def after(prompt: list[int], shown: int) -> list[dict[str, Any]]:
        """The most likely tokens after a prompt, of which the server keeps the state.

        It reports no probabilities beside a token that ends within a character. A bias, which they do not include,
        makes it take another one.
        """
        found = post("completion", prompt=prompt, n_predict=1, n_probs=shown, temperature=0.0, cache_prompt=True,
                     logit_bias=[[request["plain"], 1e6]])
        top: list[dict[str, Any]] = found["completion_probabilities"][0]["top_logprobs"]
        return top

    answer: dict[str, Any] = {"prefill": [], "tokens": [], "decode": [], "texts": []}
    for prompt in reversed(request["prompts"]):  # the first one last: generation goes on from it
        row: list[float | None] = [None] * request["vocab"]
        for entry in after(prompt, request["vocab"]):
            row[entry["id"]] = entry["logprob"]
        answer["prefill"].insert(0, row)
    prompt = request["prompts"][0]
    for _ in range(request["generate"]):
        top = after(prompt, TOP + len(request["never"]))
        answer["tokens"].append(next(entry["id"] for entry in top if entry["id"] not in request["never"]))
        answer["decode"].append([[entry["id"] for entry in top], [entry["logprob"] for entry in top]])
        prompt = [*prompt, answer["tokens"][-1]]
    for text in request["texts"]:
        answer["texts"].append(post("tokenize", content=text, add_special=False, parse_special=True)["tokens"])
    json.dump(answer, out)
    out.flush()
    os._exit(0)  # without the library's own ending, which can wait for connections


if __name__ == "__main__":
    _main(sys.argv[1])

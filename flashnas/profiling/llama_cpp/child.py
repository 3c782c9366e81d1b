"""llama.cpp in a process of its own: what a GGUF file computes there, and how long that takes.

llama.cpp ends its process where a file breaks one of its rules. `ask` and `time_requests` therefore run this
module as a child, which reads a request from standard input and writes the answer to standard output. The
child imports nothing of flashnas.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
import time
import urllib.request
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

TOP = 10  # tokens whose probabilities are read after each generated one
MARGIN_TOKENS = 8  # of a context beyond what is asked for
CACHE_TYPES = {"f32": 0, "f16": 1, "bf16": 30, "q8_0": 8}  # of keys and values, by their numbers in ggml


def ask(file: Path, *, prompts: list[list[int]], generate: int, never: list[int], texts: list[str],
        vocab: int,
        plain: int) -> dict[str, Any]:
    """What llama.cpp computes from a GGUF file, with caches in float32 and without flash attention.

    Args:
        file: the GGUF file.
        prompts: token ids; nothing is put in front of them.
        generate: tokens to generate greedily after the first prompt.
        never: tokens not to generate.
        texts: to be tokenized.
        vocab: tokens of the file.
        plain: a token of whole characters.

    Returns:
        "prefill": log-probabilities of all tokens after each prompt. "tokens": the generated ones. "decode":
        for each of them the ids and log-probabilities of the most likely tokens. "texts": token ids.

    Raises:
        RuntimeFailure: the child ended without an answer; so do the functions below.
    """
    longest = max((len(prompt) for prompt in prompts), default=1)
    # one thread: two that wait for each other in a loop take up to 100 times as long on a busy machine
    return _call("compute", file, longest + generate, threads=1, flash_attention=False, cache_type="f32",
                 prompts=prompts, generate=generate, never=never, texts=texts, vocab=vocab, plain=plain)


def time_requests(file: Path, *, prompts: Sequence[int], contexts: Sequence[int], steps: int, vocab: int,
                  **options: Any) -> dict[str, list[dict[str, float]]]:
    """How long llama.cpp reads prompts and generates tokens, one sequence at a time.

    Args:
        file: the GGUF file; its vocabulary has at least `vocab` tokens.
        prompts, contexts, steps: as `flashnas.profiling.program.Program.run`.
        vocab: random tokens are below it.
        options: threads; flash_attention, whether attention is computed in one pass; cache_type, of keys and
            values, one of CACHE_TYPES.

    Returns:
        As `Program.run`; cpu_ms is the time that the processor spent for the process, all threads together.
    """
    return _call("time", file, max([*prompts, *contexts]), prompts=list(prompts), contexts=list(contexts),
                 steps=steps,
                 vocab=vocab, **options)


def read_texts(file: Path, *, windows: list[list[int]], texts: list[str], generate: int, vocab: int,
               plain: int,
               **options: Any) -> dict[str, Any]:
    """What llama.cpp makes of texts.

    Args:
        file: the GGUF file.
        windows: token ids, each window by itself.
        texts: to be continued with the most likely tokens.
        generate: tokens that continue a text.
        vocab, plain: as for `ask`.
        options: as for `time_requests`.

    Returns:
        "logprobs": for each window the natural logarithm of the probability of each token but the first.
        "texts": the continuations.
    """
    longest = max([*map(len, windows), *(len(text.encode()) + generate for text in texts)])
    return _call("read", file, longest, windows=windows, texts=texts, generate=generate, vocab=vocab,
                 plain=plain,
                 **options)


def describe() -> dict[str, str]:
    """Of the installed llama.cpp: the version of `xllamacpp` and what it was built with and runs on."""
    return _call("describe", Path(), 0)


def _call(work: str, file: Path, context: int, **request: Any) -> Any:
    # the child imports nothing of flashnas
    from flashnas.profiling.child_process import RuntimeFailure, answer_of

    try:
        return answer_of("llama.cpp", [sys.executable, __file__],
                         {"work": work, "file": str(file), "context": context, **request})
    except RuntimeFailure as error:
        unknown = re.search("unknown model architecture: ?'?([^']*)", str(error))
        if unknown is None:
            raise
        raise RuntimeFailure(f"the installed llama.cpp (xllamacpp {version('xllamacpp')}) does not know the"
                             f" architecture {unknown[1]}; a newer one may: pip install --upgrade"
                             " xllamacpp") from None


# -- the child -----------------------------------------------------------------------------------------------


class _Server:
    """llama.cpp's server in this process, for one file and one sequence at a time."""

    def __init__(self, request: dict[str, Any]) -> None:
        from xllamacpp import CommonParams, Server

        params = CommonParams()
        params.model.path = request["file"]
        params.n_ctx = request["context"] + MARGIN_TOKENS
        params.n_parallel, params.n_gpu_layers, params.warmup, params.fit_params = 1, 0, False, False
        # no copies of states beside the one in use
        params.cache_ram_mib, params.n_ctx_checkpoints, params.cache_idle_slots = 0, 0, False
        params.cache_type_k = params.cache_type_v = CACHE_TYPES[request["cache_type"]]
        params.flash_attn_type = int(request["flash_attention"])
        params.verbosity = 1  # errors only
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = request["threads"]
        self._server = Server(params)
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def post(self, name: str, **question: Any) -> Any:
        body = json.dumps(question).encode()
        with self._opener.open(urllib.request.Request(f"{self._server.listening_address}/{name}", body,
                                                      {"Content-Type": "application/json"})) as reply:
            return json.load(reply)

    def after(self, prompt: list[int], shown: int, plain: int) -> list[dict[str, Any]]:
        """The most likely tokens after a prompt, of which the server keeps the state.

        It reports no probabilities beside a token that ends within a character. A bias, which they do not
        include, makes it take another one.
        """
        reply = self.post("completion", prompt=prompt, n_predict=1, n_probs=shown, temperature=0.0,
                          cache_prompt=True,
                          logit_bias=[[plain, 1e6]])
        top: list[dict[str, Any]] = reply["completion_probabilities"][0]["top_logprobs"]
        return top


def _compute(request: dict[str, Any]) -> dict[str, Any]:
    server, plain = _Server(request), request["plain"]
    answer: dict[str, Any] = {"prefill": [], "tokens": [], "decode": [], "texts": []}
    for prompt in reversed(request["prompts"]):  # the first one last: generation goes on from it
        row: list[float | None] = [None] * request["vocab"]
        for entry in server.after(prompt, request["vocab"], plain):
            row[entry["id"]] = entry["logprob"]
        answer["prefill"].insert(0, row)
    prompt = request["prompts"][0]
    for _ in range(request["generate"]):
        top = server.after(prompt, TOP + len(request["never"]), plain)
        answer["tokens"].append(next(entry["id"] for entry in top if entry["id"] not in request["never"]))
        answer["decode"].append([[entry["id"] for entry in top], [entry["logprob"] for entry in top]])
        prompt = [*prompt, answer["tokens"][-1]]
    for text in request["texts"]:
        answer["texts"].append(server.post("tokenize", content=text, add_special=False,
                                           parse_special=True)["tokens"])
    return answer


def _time(request: dict[str, Any]) -> dict[str, Any]:
    server, draw = _Server(request), random.Random(0)
    answer: dict[str, Any] = {"prompts": [], "contexts": []}

    def tokens(count: int) -> list[int]:
        return [draw.randrange(request["vocab"]) for _ in range(count)]

    def run(prompt: list[int], generate: int, cached: bool) -> tuple[dict[str, Any], float, list[int]]:
        """-> the server's own times, milliseconds of the processor without those of this thread, generated
        ids."""
        before = time.process_time() - time.thread_time()
        reply = server.post("completion", prompt=prompt, n_predict=generate, temperature=0.0, ignore_eos=True,
                            cache_prompt=cached, return_tokens=True)
        return reply["timings"], 1000 * (time.process_time() - time.thread_time() - before), reply["tokens"]

    for count in request["prompts"]:
        times, cpu_ms, _ = run(tokens(count), 1, cached=False)
        if times["prompt_n"] != count:
            raise RuntimeError(f"error: {times['prompt_n']} tokens of a prompt of {count} were read")
        answer["prompts"].append({"wall_ms": times["prompt_ms"], "cpu_ms": cpu_ms})
    steps, sequence = request["steps"], tokens(1)
    for context in request["contexts"]:
        sequence += tokens(context - steps - len(sequence))
        _, _, first = run(sequence, 1, cached=True)  # reads what is new; the state then ends before `first`
        sequence = [*sequence, *first]
        times, cpu_ms, generated = run(sequence, steps, cached=True)
        if times["prompt_n"] != 1 or times["predicted_n"] != steps:
            raise RuntimeError(f"error: a step read {times['prompt_n']} tokens and {times['predicted_n']} of"
                               f" {steps} were generated")
        wall_ms = times["prompt_ms"] + times["predicted_ms"]
        answer["contexts"].append({"wall_ms": wall_ms / steps, "cpu_ms": cpu_ms / steps})
        sequence += generated
    return answer


def _read(request: dict[str, Any]) -> dict[str, Any]:
    server = _Server(request)
    answer: dict[str, Any] = {"logprobs": [], "texts": []}
    for window in request["windows"]:
        answer["logprobs"].append([
            next(entry["logprob"] for entry in server.after(window[:end], request["vocab"], request["plain"])
                 if entry["id"] == window[end]) for end in range(1, len(window))])
    for text in request["texts"]:
        answer["texts"].append(server.post("completion", prompt=text, n_predict=request["generate"],
                                           temperature=0.0,
                                           cache_prompt=False)["content"])
    return answer


def _describe(request: dict[str, Any]) -> dict[str, str]:
    import xllamacpp

    return {"version": xllamacpp.__version__, "build": str(xllamacpp.BUILD_INFO),
            "system": str(xllamacpp.get_system_info())}


WORKS = {"compute": _compute, "time": _time, "read": _read, "describe": _describe}


def _main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints is not part of the answer
    request = json.load(sys.stdin)
    json.dump(WORKS[request["work"]](request), out)
    out.flush()
    os._exit(0)  # without the library's own ending, which can wait for connections


if __name__ == "__main__":
    _main()

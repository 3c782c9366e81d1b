"""llama.cpp in a process of its own: what a GGUF file computes there, and how long that takes.

llama.cpp ends its process where a file breaks one of its rules. The functions below the line therefore run
in a child (child_process.py), in which this file imports nothing of flashnas.
"""

from __future__ import annotations

import json
import random
import re
import time
import urllib.request
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

TOP = 10  # tokens whose probabilities are read after each generated one
MARGIN_TOKENS = 8  # of a context beyond what is asked for
CACHE_TYPES = {"f32": 0, "f16": 1, "bf16": 30, "q8_0": 8}  # of keys and values, by their numbers in ggml


def ask(file: Path, *, prompts: list[list[int]], generate: int, never: list[int], texts: list[str],
        vocab: int, plain: int) -> dict[str, Any]:
    """What llama.cpp computes from a GGUF file, with caches in float32 and without flash attention.

    Args:
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
    return _call(_compute, file, longest + generate, threads=1, flash_attention=False, cache_type="f32",
                 prompts=prompts, generate=generate, never=never, texts=texts, vocab=vocab, plain=plain)


def time_requests(file: Path, *, prompts: Sequence[int], contexts: Sequence[int], steps: int, vocab: int,
                  **options: Any) -> dict[str, list[dict[str, float]]]:
    """How long llama.cpp reads prompts and generates tokens, one sequence at a time.

    Args:
        prompts, contexts, steps: as `flashnas.profiling.program.Program.run`.
        vocab: random tokens are below it; the vocabulary of the file has them.
        options: threads; flash_attention, whether attention is computed in one pass; cache_type, of keys and
            values, one of CACHE_TYPES.

    Returns:
        As `Program.run`; cpu_ms is the time that the processor spent for the process, all threads together.
    """
    return _call(_time, file, max([*prompts, *contexts]), prompts=list(prompts), contexts=list(contexts),
                 steps=steps, vocab=vocab, **options)


def read_texts(file: Path, *, windows: list[list[int]], texts: list[str], generate: int, vocab: int,
               plain: int, **options: Any) -> dict[str, Any]:
    """What llama.cpp makes of texts.

    Args:
        windows: token ids, each window by itself.
        texts: to be continued with the most likely tokens.
        generate: tokens that continue a text.
        vocab, plain, options: as above.

    Returns:
        "logprobs": for each window the natural logarithm of the probability of each token but the first.
        "texts": the continuations.
    """
    longest = max([*map(len, windows), *(len(text.encode()) + generate for text in texts)])
    return _call(_read, file, longest, windows=windows, texts=texts, generate=generate, vocab=vocab,
                 plain=plain, **options)


def describe() -> dict[str, str]:
    """Of the installed llama.cpp: the version of `xllamacpp` and what it was built with and runs on."""
    return _call(_describe)


def _call(work: Callable[..., Any], file: Path | None = None, context: int = 0, **request: Any) -> Any:
    from flashnas.profiling.child_process import RuntimeFailure, call

    server = {} if file is None else {"file": str(file), "context": context}
    try:
        return call("llama.cpp", __file__, work.__name__, {**server, **request})
    except RuntimeFailure as error:
        unknown = re.search("unknown model architecture: ?'?([^']*)", str(error))
        if unknown is None:
            raise
        raise RuntimeFailure(f"the installed llama.cpp (xllamacpp {version('xllamacpp')}) does not know the"
                             f" architecture {unknown[1]}; a newer one may: pip install --upgrade"
                             " xllamacpp") from None


# -- the child -----------------------------------------------------------------------------------------------


class _Server:
    """llama.cpp's server in this process."""

    def __init__(self, file: str, context: int, threads: int, flash_attention: bool, cache_type: str) -> None:
        from xllamacpp import CommonParams, Server

        params = CommonParams()
        params.model.path = file
        params.n_ctx = context + MARGIN_TOKENS
        params.n_parallel, params.n_gpu_layers, params.warmup, params.fit_params = 1, 0, False, False
        # no copies of states beside the one in use
        params.cache_ram_mib, params.n_ctx_checkpoints, params.cache_idle_slots = 0, 0, False
        params.cache_type_k = params.cache_type_v = CACHE_TYPES[cache_type]
        params.flash_attn_type = int(flash_attention)
        params.verbosity = 1  # errors only
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
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
                          cache_prompt=True, logit_bias=[[plain, 1e6]])
        top: list[dict[str, Any]] = reply["completion_probabilities"][0]["top_logprobs"]
        return top


def _compute(prompts: list[list[int]], generate: int, never: list[int], texts: list[str], vocab: int,
             plain: int, **options: Any) -> dict[str, Any]:
    server = _Server(**options)
    answer: dict[str, Any] = {"prefill": [], "tokens": [], "decode": [], "texts": []}
    for prompt in reversed(prompts):  # the first one last: generation goes on from it
        row: list[float | None] = [None] * vocab
        for entry in server.after(prompt, vocab, plain):
            row[entry["id"]] = entry["logprob"]
        answer["prefill"].insert(0, row)
    prompt = prompts[0]
    for _ in range(generate):
        top = server.after(prompt, TOP + len(never), plain)
        answer["tokens"].append(next(entry["id"] for entry in top if entry["id"] not in never))
        answer["decode"].append([[entry["id"] for entry in top], [entry["logprob"] for entry in top]])
        prompt = [*prompt, answer["tokens"][-1]]
    answer["texts"] = [server.post("tokenize", content=text, add_special=False, parse_special=True)["tokens"]
                       for text in texts]
    return answer


def _time(prompts: list[int], contexts: list[int], steps: int, vocab: int, **options: Any) -> dict[str, Any]:
    server, draw = _Server(**options), random.Random(0)
    answer: dict[str, Any] = {"prompts": [], "contexts": []}

    def tokens(count: int) -> list[int]:
        return [draw.randrange(vocab) for _ in range(count)]

    def run(prompt: list[int], generate: int, cached: bool) -> tuple[dict[str, Any], float, list[int]]:
        """-> the server's own times, milliseconds of the processor without those of this thread, generated
        ids."""
        before = time.process_time() - time.thread_time()
        reply = server.post("completion", prompt=prompt, n_predict=generate, temperature=0.0, ignore_eos=True,
                            cache_prompt=cached, return_tokens=True)
        return reply["timings"], 1000 * (time.process_time() - time.thread_time() - before), reply["tokens"]

    for count in prompts:
        times, cpu_ms, _ = run(tokens(count), 1, cached=False)
        if times["prompt_n"] != count:
            raise RuntimeError(f"error: {times['prompt_n']} tokens of a prompt of {count} were read")
        answer["prompts"].append({"wall_ms": times["prompt_ms"], "cpu_ms": cpu_ms})
    sequence = tokens(1)
    for context in contexts:
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


def _read(windows: list[list[int]], texts: list[str], generate: int, vocab: int, plain: int,
          **options: Any) -> dict[str, Any]:
    server = _Server(**options)
    return {"logprobs": [[next(entry["logprob"] for entry in server.after(window[:end], vocab, plain)
                               if entry["id"] == window[end]) for end in range(1, len(window))]
                         for window in windows],
            "texts": [server.post("completion", prompt=text, n_predict=generate, temperature=0.0,
                                  cache_prompt=False)["content"] for text in texts]}


def _describe() -> dict[str, str]:
    import xllamacpp

    return {"version": xllamacpp.__version__, "build": str(xllamacpp.BUILD_INFO),
            "system": str(xllamacpp.get_system_info())}

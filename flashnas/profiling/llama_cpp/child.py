"""llama.cpp in a process of its own: what a GGUF file computes there, and how long that takes.

llama.cpp ends its process where a file breaks one of its rules. The functions below the line
therefore run in a child, which runs this file: it imports nothing of flashnas.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

TOP = 10  # tokens whose probabilities are read after each generated one
MARGIN_TOKENS = 8  # of a context beyond what is asked for
TIMEOUT_S = 3600.0
# of the line of an error output that says most, the best first
SIGNS = tuple(
    map(re.compile, ("GGML_ASSERT", "error loading model:", r"^[\w.]+(Error|Exception)\b", "rror"))
)
CACHE_TYPES = {
    "f32": 0,
    "f16": 1,
    "bf16": 30,
    "q8_0": 8,
}  # of keys and values, by their numbers in ggml


class RuntimeFailure(Exception):
    """The child did not answer; the message is one line."""


def ask(
    file: Path,
    *,
    prompts: list[list[int]],
    generate: int,
    never: list[int],
    texts: list[str],
    vocab: int,
    plain: int,
) -> dict[str, Any]:
    """What llama.cpp computes from a GGUF file, with caches in float32 and without flash attention.

    Args:
        prompts: token ids; nothing is put in front of them.
        generate: tokens to generate greedily after the first prompt; never: none of these.
        texts: to be tokenized.
        vocab: tokens of the file.
        plain: a token of whole characters.

    Returns:
        "prefill": log-probabilities of all tokens after each prompt. "tokens": the generated ones.
        "decode": for each of them the ids and log-probabilities of the most likely tokens. "texts":
        token ids.

    Raises:
        RuntimeFailure: the child ended without an answer; so do the functions below.
    """
    longest = max((len(prompt) for prompt in prompts), default=1)
    # one thread: two that wait for each other in a loop take up to 100 times as long on a busy
    # machine
    return _call(
        _compute,
        file,
        longest + generate,
        threads=1,
        flash_attention=False,
        cache_type="f32",
        prompts=prompts,
        generate=generate,
        never=never,
        texts=texts,
        vocab=vocab,
        plain=plain,
    )


def time_requests(
    file: Path,
    *,
    prompts: Sequence[int],
    contexts: Sequence[int],
    steps: int,
    vocab: int,
    **options: Any,
) -> dict[str, list[dict[str, float]]]:
    """`LlamaCpp.times` of a file; cpu_ms is the time that the processor spent for the process, all
    threads together. vocab: random tokens are below it. options: threads; flash_attention, whether
    attention is computed in one pass; cache_type, of keys and values, one of CACHE_TYPES."""
    return _call(
        _time,
        file,
        max([*prompts, *contexts]),
        prompts=list(prompts),
        contexts=list(contexts),
        steps=steps,
        vocab=vocab,
        **options,
    )


def read_texts(
    file: Path,
    *,
    windows: list[list[int]],
    texts: list[str],
    generate: int,
    vocab: int,
    plain: int,
    **options: Any,
) -> dict[str, Any]:
    """What llama.cpp makes of texts.

    Args:
        windows: token ids, each window by itself.
        texts: to be continued with `generate` most likely tokens.
        vocab, plain, options: as above.

    Returns:
        "logprobs": for each window the natural logarithm of the probability of each token but the
        first. "texts": the continuations.
    """
    longest = max([*map(len, windows), *(len(text.encode()) + generate for text in texts)])
    return _call(
        _read,
        file,
        longest,
        windows=windows,
        texts=texts,
        generate=generate,
        vocab=vocab,
        plain=plain,
        **options,
    )


def describe() -> dict[str, str]:
    """Of the installed llama.cpp: the version of `xllamacpp` and what it was built with and runs
    on.
    """
    return _call(_describe)


def _call(
    work: Callable[..., Any], file: Path | None = None, context: int = 0, **request: Any
) -> Any:
    """What a function below the line returns in the child; raises RuntimeFailure."""
    server = {} if file is None else {"file": str(file), "context": context}
    # -P: modules beside this file are not importable by their bare names
    command = [sys.executable, "-P", __file__, work.__name__]
    try:
        child = subprocess.run(
            command,
            input=json.dumps({**server, **request}),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeFailure(f"llama.cpp did not answer within {TIMEOUT_S:.0f} s") from None
    except OSError as error:
        raise RuntimeFailure(
            f"llama.cpp could not be started: {command[0]}: {error.strerror}"
        ) from None
    reason = _reason(child.stderr)
    if child.returncode and (
        unknown := re.search("unknown model architecture: ?'?([^']*)", reason)
    ):
        raise RuntimeFailure(
            f"the installed llama.cpp (xllamacpp {version('xllamacpp')}) does not know the"
            f" architecture {unknown[1]}; a newer one may: pip install --upgrade xllamacpp"
        )
    if child.returncode:
        how = (
            f"exit code {child.returncode}"
            if child.returncode > 0
            else signal.Signals(-child.returncode).name
        )
        raise RuntimeFailure(f"llama.cpp ended with {how}: {reason}")
    try:
        return json.loads(child.stdout)
    except ValueError:
        raise RuntimeFailure(f"llama.cpp gave no answer: {reason}") from None


def _reason(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    for sign in SIGNS:
        for line in reversed(lines):
            if sign.search(line):
                return line
    return lines[-1] if lines else "without a message"


# -- the child -------------------------------------------------------------------------------------


class _Server:
    """llama.cpp's server in this process."""

    def __init__(
        self, file: str, context: int, threads: int, flash_attention: bool, cache_type: str
    ) -> None:
        from xllamacpp import CommonParams, Server

        params = CommonParams()
        params.model.path = file
        params.n_ctx = context + MARGIN_TOKENS
        params.n_parallel, params.n_gpu_layers, params.warmup, params.fit_params = (
            1,
            0,
            False,
            False,
        )
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
        with self._opener.open(
            urllib.request.Request(
                f"{self._server.listening_address}/{name}",
                body,
                {"Content-Type": "application/json"},
            )
        ) as reply:
            return json.load(reply)

    def after(self, prompt: list[int], shown: int, plain: int) -> list[dict[str, Any]]:
        """The most likely tokens after a prompt. The server reports no probabilities beside a token
        that ends within a character: a bias, which they do not include, makes it take another
        one."""
        reply = self.post(
            "completion",
            prompt=prompt,
            n_predict=1,
            n_probs=shown,
            temperature=0.0,
            cache_prompt=True,
            logit_bias=[[plain, 1e6]],
        )
        top: list[dict[str, Any]] = reply["completion_probabilities"][0]["top_logprobs"]
        return top


def _compute(
    prompts: list[list[int]],
    generate: int,
    never: list[int],
    texts: list[str],
    vocab: int,
    plain: int,
    **options: Any,
) -> dict[str, Any]:
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
        answer["decode"].append(
            [[entry["id"] for entry in top], [entry["logprob"] for entry in top]]
        )
        prompt = [*prompt, answer["tokens"][-1]]
    answer["texts"] = [
        server.post("tokenize", content=text, add_special=False, parse_special=True)["tokens"]
        for text in texts
    ]
    return answer


def _time(
    prompts: list[int], contexts: list[int], steps: int, vocab: int, **options: Any
) -> dict[str, Any]:
    server, draw = _Server(**options), random.Random(0)
    answer: dict[str, Any] = {"prompts": [], "contexts": []}

    def tokens(count: int) -> list[int]:
        return [draw.randrange(vocab) for _ in range(count)]

    def run(
        prompt: list[int], generate: int, cached: bool
    ) -> tuple[dict[str, Any], float, list[int]]:
        """-> the server's own times, milliseconds of the processor without those of this thread,
        generated ids."""
        before = time.process_time() - time.thread_time()
        reply = server.post(
            "completion",
            prompt=prompt,
            n_predict=generate,
            temperature=0.0,
            ignore_eos=True,
            cache_prompt=cached,
            return_tokens=True,
        )
        return (
            reply["timings"],
            1000 * (time.process_time() - time.thread_time() - before),
            reply["tokens"],
        )

    for count in prompts:
        times, cpu_ms, _ = run(tokens(count), 1, cached=False)
        if times["prompt_n"] != count:
            raise RuntimeError(
                f"error: {times['prompt_n']} tokens of a prompt of {count} were read"
            )
        answer["prompts"].append({"wall_ms": times["prompt_ms"], "cpu_ms": cpu_ms})
    sequence = tokens(1)
    for context in contexts:
        sequence += tokens(context - steps - len(sequence))
        _, _, first = run(
            sequence, 1, cached=True
        )  # reads what is new; the state then ends before `first`
        sequence = [*sequence, *first]
        times, cpu_ms, generated = run(sequence, steps, cached=True)
        if times["prompt_n"] != 1 or times["predicted_n"] != steps:
            raise RuntimeError(
                f"error: a step read {times['prompt_n']} tokens and {times['predicted_n']} of"
                f" {steps} were generated"
            )
        wall_ms = times["prompt_ms"] + times["predicted_ms"]
        answer["contexts"].append({"wall_ms": wall_ms / steps, "cpu_ms": cpu_ms / steps})
        sequence += generated
    return answer


def _read(
    windows: list[list[int]],
    texts: list[str],
    generate: int,
    vocab: int,
    plain: int,
    **options: Any,
) -> dict[str, Any]:
    server = _Server(**options)
    return {
        "logprobs": [
            [
                next(
                    entry["logprob"]
                    for entry in server.after(window[:end], vocab, plain)
                    if entry["id"] == window[end]
                )
                for end in range(1, len(window))
            ]
            for window in windows
        ],
        "texts": [
            server.post(
                "completion", prompt=text, n_predict=generate, temperature=0.0, cache_prompt=False
            )["content"]
            for text in texts
        ],
    }


def _describe() -> dict[str, str]:
    import xllamacpp

    return {
        "version": xllamacpp.__version__,
        "build": str(xllamacpp.BUILD_INFO),
        "system": str(xllamacpp.get_system_info()),
    }


def _main(work: str) -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what llama.cpp prints is not part of the answer
    json.dump(globals()[work](**json.load(sys.stdin)), out)
    out.flush()
    os._exit(0)  # without the program's own ending, which can wait for connections


if __name__ == "__main__":
    _main(sys.argv[1])

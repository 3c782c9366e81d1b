"""llama.cpp in a process of its own: what a GGUF file computes there, and how long that takes.

llama.cpp ends its process where a file breaks one of its rules. The functions that `in_child`
decorates therefore run in a child, which runs this file: it imports nothing of flashnas.
"""

from __future__ import annotations

import functools
import json
import os
import random
import re
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

TOP = 10  # tokens whose probabilities are read after each generated one
MARGIN_TOKENS = 8  # of a context beyond what is asked for
# of keys and values, by their numbers in ggml
CACHE_TYPES = {"f32": 0, "f16": 1}


P = ParamSpec("P")
Answer = TypeVar("Answer")


def in_child(work: Callable[P, Answer]) -> Callable[P, Answer]:
    """A function that runs in a child process and raises DeviceError if that fails. Arguments and
    answer travel as JSON."""

    @functools.wraps(work)
    def call(*arguments: P.args, **keywords: P.kwargs) -> Answer:
        from flashnas.base.errors import DeviceError  # not in the child
        from flashnas.profiling.session import Session

        # -P: modules beside this file are not importable by their bare names
        session = Session("llama.cpp", [sys.executable, "-P", __file__, work.__name__])
        try:
            answer: Answer = session.ask([arguments, keywords])
        except DeviceError as error:
            if unknown := re.search("unknown model architecture: ?'?([^']*)", str(error)):
                raise DeviceError(
                    f"the installed llama.cpp (xllamacpp {version('xllamacpp')}) does not know the"
                    f" architecture {unknown[1]}; a newer one may: pip install --upgrade xllamacpp"
                ) from None
            raise
        finally:
            session.end()
        return answer

    return call


class Server:
    """llama.cpp's server in this process."""

    def __init__(
        self, file: Path, context: int, threads: int, flash_attention: bool, cache_type: str
    ) -> None:
        from xllamacpp import CommonParams, Server

        params = CommonParams()
        params.model.path = str(file)
        params.n_ctx = context + MARGIN_TOKENS
        params.n_parallel, params.n_gpu_layers = 1, 0
        params.warmup = params.fit_params = False
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


@in_child
def ask(
    file: Path,
    *,
    prompts: list[list[int]],
    generate: int,
    never: list[int],
    texts: list[str],
    vocab: int,
    plain: int,
    ends: Sequence[int] = (),
    chat: Sequence[dict[str, str]] = (),
) -> dict[str, Any]:
    """Compute what a GGUF file predicts, with caches in float32 and without flash attention.

    Args:
        prompts: token ids; nothing is put in front of them.
        generate: number of tokens to generate greedily after the first prompt.
        never: tokens that are not generated.
        texts: to be tokenized.
        vocab: number of tokens of the file.
        plain: a token of whole characters.
        ends: tokens that should end a text.
        chat: messages, each with its role and content.

    Returns:
        "prefill": log-probabilities of all tokens after each prompt. "tokens": the generated ones.
        "decode": for each of them the ids and log-probabilities of the most likely tokens. "texts":
        token ids, and "begun": those with what the file puts in front. "goes_on": the `ends` after
        which a text goes on. "chat": the text of the chat.
    """
    # one thread: two that wait for each other in a loop take up to 100 times as long on a busy
    # machine
    server = Server(
        file,
        max(map(len, prompts)) + generate,
        threads=1,
        flash_attention=False,
        cache_type="f32",
    )
    answer: dict[str, Any] = {"prefill": [], "tokens": [], "decode": []}
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
    if chat:
        answer["chat"] = server.post("apply-template", messages=chat)["prompt"]
        texts = [*texts, answer["chat"]]
    for name, begun in (("texts", False), ("begun", True)):
        answer[name] = [
            server.post("tokenize", content=text, add_special=begun, parse_special=True)["tokens"]
            for text in texts
        ]
    answer["goes_on"] = [
        token
        for token in ends
        if server.post(
            "completion", prompt=[plain], n_predict=2, logit_bias=[[token, 1e6]], temperature=0.0
        )["stop_type"]
        != "eos"
    ]
    return answer


@in_child
def time_requests(
    file: Path,
    *,
    prompts: Sequence[int],
    contexts: Sequence[int],
    steps: int,
    vocab: int,
    **options: Any,
) -> dict[str, list[dict[str, float]]]:
    """Time prompts that are read into an empty cache, and steps that continue a sequence.

    Args:
        prompts: numbers of tokens.
        contexts: for each of them `steps` tokens are generated, of which the last one makes the
            context `context` tokens long; in ascending order, at least `steps` apart.
        vocab: random tokens are below it.
        options: threads; flash_attention, whether attention is computed in one pass; cache_type, of
            keys and values, one of CACHE_TYPES.

    Returns:
        "prompts" and "contexts": one entry for each, with the milliseconds `wall_ms` and `cpu_ms`
        of the whole prompt, or of one step; of contexts also how many different tokens were
        generated.
    """
    server, draw = Server(file, max([*prompts, *contexts]), **options), random.Random(0)
    answer: dict[str, list[dict[str, float]]] = {"prompts": [], "contexts": []}

    def tokens(count: int) -> list[int]:
        return [draw.randrange(vocab) for _ in range(count)]

    def complete(prompt: list[int], generate: int, cached: bool) -> tuple[dict[str, Any], float]:
        """The reply, and the milliseconds of the processor without those of this thread."""
        before = time.process_time() - time.thread_time()
        reply = server.post(
            "completion",
            prompt=prompt,
            n_predict=generate,
            temperature=1.0,  # the most likely token would be the same again and again
            seed=0,
            ignore_eos=True,
            cache_prompt=cached,
            return_tokens=True,
        )
        return reply, 1000 * (time.process_time() - time.thread_time() - before)

    for count in prompts:
        reply, cpu_ms = complete(tokens(count), 1, cached=False)
        times = reply["timings"]
        if times["prompt_n"] != count:
            raise RuntimeError(
                f"error: {times['prompt_n']} tokens of a prompt of {count} were read"
            )
        answer["prompts"].append({"wall_ms": times["prompt_ms"], "cpu_ms": cpu_ms})
    sequence = tokens(1)
    for context in contexts:
        sequence += tokens(context - steps - len(sequence))
        # reads what is new; the state then ends before the token that is generated
        sequence += complete(sequence, 1, cached=True)[0]["tokens"]
        reply, cpu_ms = complete(sequence, steps, cached=True)
        times = reply["timings"]
        if times["prompt_n"] != 1 or times["predicted_n"] != steps:
            raise RuntimeError(
                f"error: a step read {times['prompt_n']} tokens and {times['predicted_n']} of"
                f" {steps} were generated"
            )
        wall_ms = times["prompt_ms"] + times["predicted_ms"]
        answer["contexts"].append(
            {
                "wall_ms": wall_ms / steps,
                "cpu_ms": cpu_ms / steps,
                "different_tokens": len({*reply["tokens"]}),
            }
        )
        sequence += reply["tokens"]
    return answer


@in_child
def describe() -> dict[str, str]:
    """Describe the installed llama.cpp: its build, and what it runs on."""
    import xllamacpp

    return {
        "build": str(xllamacpp.BUILD_INFO),
        "system": str(xllamacpp.get_system_info()).strip(" |"),
    }


def _main(work: str) -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what llama.cpp prints is not part of the answer
    arguments, keywords = json.loads(sys.stdin.readline())
    json.dump(globals()[work].__wrapped__(*arguments, **keywords), out)
    out.flush()
    os._exit(0)  # without the program's own ending, which can wait for connections


if __name__ == "__main__":
    _main(sys.argv[1])

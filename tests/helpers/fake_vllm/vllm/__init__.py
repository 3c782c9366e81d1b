"""A stand-in for vLLM 0.32 as profiling/vllm/child.py uses it: an engine whose clock is known.

It demands what the real one demands: a config.json whose architecture is in its registry, arguments
that vllm.LLM has, token ids below the vocabulary, requests that fit into max_model_len. FAKE_VLLM
names a file to which each start adds a line; FAKE_VLLM_BREAKS a number of layers with which the
engine ends its process.
"""

import json
import os
from pathlib import Path
from types import SimpleNamespace

ARCHITECTURES = (
    "GraniteMoeHybridForCausalLM",
    "NemotronHForCausalLM",
    "LlamaForCausalLM",
    "Qwen3_5ForCausalLM",
)
OPTIONS = {
    "model",
    "load_format",
    "skip_tokenizer_init",
    "enable_prefix_caching",
    "disable_log_stats",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "seed",
    "dtype",
    "enforce_eager",
    "gpu_memory_utilization",
}
STEP_S, TOKEN_S, CONTEXT_S = 1e-3, 1e-4, 1e-6  # of a layer: a step, a token of a prompt, a context


def layers_s(config):
    """Seconds of a step, of a token that is read, and of one token of context, of a network."""
    width = config["hidden_size"] / 64
    kinds = config["layer_types"]
    attention = kinds.count("attention")
    return (
        STEP_S * width * (len(kinds) + attention),
        TOKEN_S * width * len(kinds),
        CONTEXT_S * width * attention,
    )


class SamplingParams:
    def __init__(self, *, temperature, ignore_eos, min_tokens, max_tokens, detokenize):
        assert temperature == 0.0
        assert ignore_eos
        assert min_tokens == max_tokens
        assert not detokenize
        self.max_tokens = max_tokens


class Engine:
    """A scheduler of one budget of tokens for each step: first a token for each sequence that is
    read, then further parts of prompts."""

    def __init__(self, config, options):
        self.config, self.options, self.now, self.requests = config, options, 100.0, []
        self.engine_core = SimpleNamespace(shutdown=lambda: None)

    def add_request(self, name, prompt, params):
        ids = prompt["prompt_token_ids"]
        if max(ids) >= self.config["vocab_size"]:
            raise ValueError(f"Token id {max(ids)} is out of vocabulary")
        if len(ids) + params.max_tokens > self.options["max_model_len"]:
            raise ValueError("the request is longer than max_model_len")
        self.requests.append(
            SimpleNamespace(
                request_id=name, left=len(ids), read=len(ids), made=[], most=params.max_tokens,
                metrics=SimpleNamespace(scheduled_ts=0.0, first_token_ts=0.0, last_token_ts=0.0),
            )
        )  # fmt: skip

    def has_unfinished_requests(self):
        return bool(self.requests)

    def step(self):
        budget, step_s = self.options["max_num_batched_tokens"], layers_s(self.config)
        begin, outputs = self.now, []
        seen = [each.read + len(each.made) for each in self.requests if not each.left]
        self.now += step_s[0] + step_s[2] * max(seen, default=0)
        reading = [each for each in self.requests if each.left]
        for each in [each for each in self.requests if not each.left]:
            budget -= 1
            each.made.append(1)
            outputs.append(each)
        for each in reading:
            tokens = min(each.left, budget)
            if tokens and each.left == each.read:
                each.metrics.scheduled_ts = begin
            each.left, budget = each.left - tokens, budget - tokens
            self.now += tokens * step_s[1]
            if not each.left:
                each.made.append(1)
                outputs.append(each)
        self.requests = [each for each in self.requests if len(each.made) < each.most]
        for each in outputs:
            each.metrics.last_token_ts = self.now
            each.metrics.first_token_ts = each.metrics.first_token_ts or self.now
        return [
            SimpleNamespace(
                request_id=each.request_id,
                finished=len(each.made) == each.most,
                metrics=each.metrics,
                outputs=[SimpleNamespace(token_ids=each.made)],
            )
            for each in outputs
        ]


class LLM:
    def __init__(self, **options):
        unknown = options.keys() - OPTIONS
        if unknown:
            raise TypeError(f"EngineArgs got an unexpected keyword argument {min(unknown)!r}")
        config = json.loads(Path(options["model"], "config.json").read_text())
        if config["architectures"][0] not in ARCHITECTURES:
            raise ValueError(f"Model architectures {config['architectures']} are not supported")
        assert options["load_format"] == "dummy"
        assert options["skip_tokenizer_init"]  # there is no tokenizer
        if options["max_num_batched_tokens"] < options["max_num_seqs"]:
            raise ValueError("max_num_batched_tokens must be at least max_num_seqs")
        if file := os.environ.get("FAKE_VLLM"):
            with open(file, "a") as starts:
                starts.write(json.dumps({"pid": os.getpid(), **options}, default=str) + "\n")
        if str(config["num_hidden_layers"]) == os.environ.get("FAKE_VLLM_BREAKS"):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        self.llm_engine = Engine(config, options)

    def generate(self, prompts, params, use_tqdm):
        assert not use_tqdm
        for number, prompt in enumerate(prompts):
            self.llm_engine.add_request(str(number), prompt, params)
        finished = []
        while self.llm_engine.has_unfinished_requests():
            finished += [output for output in self.llm_engine.step() if output.finished]
        return finished

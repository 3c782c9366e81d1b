"""Whole networks in vLLM, timed. The interpreter in which vLLM is installed runs this file, which
imports nothing of flashnas.

    python child.py describe    what is installed, and the device, as one JSON object
    python child.py time        answers one JSON object a line until its input ends

vLLM needs config.json alone: weights are random and prompts are token ids. A failure ends the
process, because an engine that failed may keep its memory; the next one starts anew.
"""

import gc
import importlib.metadata
import json
import os
import random
import sys
import time

MARGIN_TOKENS = 8  # of a context beyond what is asked for
COPIED_BYTES, PRODUCT = 2**28, {"cpu": 1536, "cuda": 8192}


def describe():
    """Versions, and the device that vLLM would use: its name, memory, and speed of a copy and of a
    product in bfloat16 (float32 on a CPU)."""
    from vllm.platforms import current_platform

    import torch  # isort: skip - takes seconds, which one without vLLM need not wait

    device = "cpu" if current_platform.is_cpu() else "cuda"
    names = importlib.metadata.packages_distributions()["vllm"]
    facts = {
        "version": importlib.metadata.version(names[0]),
        "torch": torch.__version__,
        "device": device,
        "label": "" if device == "cpu" else current_platform.get_device_name(),
        "memory_bytes": int(current_platform.get_device_total_memory()),
    }
    own = current_platform.device_type
    size, dtype = PRODUCT[device], torch.float32 if device == "cpu" else torch.bfloat16
    source = torch.ones(COPIED_BYTES // 4, device=own)
    copy, a = torch.empty_like(source), torch.ones(size, size, device=own, dtype=dtype)

    def seconds(call):
        best = float("inf")
        for _ in range(5):
            begin = time.perf_counter()
            float(call().flatten()[0])  # waits for the device
            best = min(best, time.perf_counter() - begin)
        return best

    facts["bandwidth_bytes_s"] = 2 * COPIED_BYTES / seconds(lambda: copy.copy_(source))
    facts["peak_flops"] = 2 * size**3 / seconds(lambda: a @ a)
    return facts


def time_network(question):
    """Time prompts and decode steps of one network.

    question: "folder" of config.json; "options" of vllm.LLM; "vocab", of which random tokens are;
    "batch"; "prompts", lengths; "steps", pairs of the numbers of tokens that the first and the last
    step see, themselves included; "repeats".

    Returns "prompts" and "steps": for each the milliseconds of each repeat, of the whole prompt or
    of one step.
    """
    from vllm import LLM

    batch, prompts, steps = question["batch"], question["prompts"], question["steps"]
    options = question["options"]
    # steps that the sequence that is read first is ahead of the one that is read last
    at_once = options["max_num_batched_tokens"]
    leads = [-(-batch * (first - 1) // at_once) - -(-(first - 1) // at_once) for first, _ in steps]
    lasts = [last + lead for (_, last), lead in zip(steps, leads, strict=True)]
    llm = LLM(
        model=question["folder"],
        load_format="dummy",
        skip_tokenizer_init=True,
        enable_prefix_caching=False,
        disable_log_stats=False,
        max_model_len=max([*prompts, *lasts]) + MARGIN_TOKENS,
        max_num_seqs=batch,
        seed=0,
        **options,
    )
    draw = random.Random(0)

    def once(tokens, generated, lead):
        texts = [
            {"prompt_token_ids": [draw.randrange(question["vocab"]) for _ in range(tokens)]}
            for _ in range(batch)
        ]
        return by_clock(llm, texts, generated, lead)

    def repeated(tokens, generated, lead=0):
        once(tokens, generated, lead)  # allocates, compiles and tunes
        return [once(tokens, generated, lead) for _ in range(question["repeats"])]

    answer = {
        "prompts": [[prefill for prefill, _ in repeated(tokens, 1)] for tokens in prompts],
        "steps": [
            [step for _, step in repeated(first - 1, last - first + 2 + lead, lead)]
            for (first, last), lead in zip(steps, leads, strict=True)
        ],
    }
    end(llm)
    return answer


def by_clock(llm, texts, generated, lead):
    """Milliseconds of the prompts and of one step, as the engine records them: from the start of the
    first prompt to the last one's token, and from there until the first sequence ends, which is
    `lead` steps ahead."""
    from vllm import SamplingParams

    sampling = SamplingParams(
        temperature=0.0,
        ignore_eos=True,
        min_tokens=generated,
        max_tokens=generated,
        detokenize=False,
    )
    outputs = llm.generate(texts, sampling, use_tqdm=False)
    for output in outputs:
        made = len(output.outputs[0].token_ids)
        if made != generated:
            raise RuntimeError(f"{made} of {generated} tokens were generated")
    metrics = [output.metrics for output in outputs]
    first = max(each.first_token_ts for each in metrics)
    prefill_s = first - min(each.scheduled_ts for each in metrics)
    steps_s = min(each.last_token_ts for each in metrics) - first
    return 1000 * prefill_s, 1000 * steps_s / max(generated - 1 - lead, 1)


def end(llm):
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    llm.llm_engine.engine_core.shutdown()
    cleanup_dist_env_and_memory()


def main():
    # what vLLM prints is not part of the answer
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    questions = [None] if sys.argv[1] == "describe" else map(json.loads, sys.stdin)
    for question in questions:
        answer = describe() if question is None else time_network(question)
        print(json.dumps(answer), file=out, flush=True)
        gc.collect()  # now that nothing refers to the engine
    os._exit(0)  # without vLLM's own ending


if __name__ == "__main__":
    main()

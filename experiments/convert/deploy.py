"""A converted SmolLM2 in llama.cpp: through the gate, and timed beside the original.

    python experiments/convert/deploy.py MODEL.gguf experiments/runs/convert/models/NAME

MODEL.gguf and the converted weights become q8_0 files, which must compute what the networks compute.
Then both are timed turn by turn: a prompt of 512 tokens and 48 steps at a context of 768, one thread,
by the processor's own time. The prediction comes from models with random weights: the original, and
one without attention in every second layer.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import flashnas as fn
from flashnas.architecture import Architecture
from flashnas.network.weights import read_architecture
from flashnas.profiling.llama_cpp.child import time_requests
from flashnas.profiling.llama_cpp.target import LlamaCpp

HERE = Path(__file__).parent
PROMPT, CONTEXT, STEPS, GENERATED, ROUNDS = 512, 768, 48, 256, 5


def main() -> None:
    """Export both, time both, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("original", type=Path)
    parser.add_argument("converted", type=Path)
    parser.add_argument("--out", type=Path, default=Path("experiments/runs/convert-gguf"))
    given = parser.parse_args()
    files = {}
    for name, source in (("original", given.original), ("converted", given.converted)):
        folder = given.out / name
        if not folder.exists():
            print(fn.export(str(source), to="gguf", type="q8_0", out=str(folder)), flush=True)
        files[name] = folder / "model.gguf"
    converted = read_architecture(given.converted)[0]
    vocab = converted.vocab
    measured: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(ROUNDS):
        for name, file in files.items():
            measured[name].append(request_ms(file, vocab))
            print(name, f"{measured[name][-1]:,.0f} ms", flush=True)
    medians = {name: statistics.median(values) for name, values in measured.items()}
    share = predicted_share(converted)
    result = {
        "measured_ms": measured,
        "median_ms": medians,
        "measured_share": medians["converted"] / medians["original"],
        "predicted_share": share,
        "converted": converted.notation,
    }
    print({name: result[name] for name in ("median_ms", "measured_share", "predicted_share")})
    (HERE / "results" / "deploy.json").write_text(json.dumps(result, indent=1) + "\n")


def request_ms(file: Path, vocab: int) -> float:
    """Milliseconds of the processor for a prompt and GENERATED steps at the last context."""
    answer = time_requests(
        file,
        prompts=[PROMPT],
        contexts=[CONTEXT],
        steps=STEPS,
        vocab=vocab,
        threads=1,
        flash_attention=False,
        cache_type="f16",
    )
    return answer["prompts"][0]["cpu_ms"] + GENERATED * answer["contexts"][0]["cpu_ms"]


def predicted_share(converted: Architecture) -> float:
    """Of the original's time, from models with random weights that differ from both."""
    attention = next(spec for spec in converted.operators if spec.kind == "a")
    ffn = next(spec for spec in converted.operators if spec.kind == "f")
    layers = sum(spec.kind == "f" for spec in converted.operators)
    left = sum(spec.kind == "a" for spec in converted.operators)
    target = LlamaCpp(weights="q8_0")
    steps = [range(CONTEXT + 1 - STEPS, CONTEXT + 1)]

    def random_ms(without: int) -> float:
        operators = [attention, ffn] * (layers - 2 * without) + [attention, ffn, ffn] * without
        network = Architecture(
            hidden=converted.hidden, vocab=converted.vocab, operators=tuple(operators)
        )
        rounds = [target.times(network, 1, [PROMPT], steps) for _ in range(ROUNDS)]
        return statistics.median(
            times.prompts[0] + GENERATED * statistics.mean(times.steps) for times in rounds
        )

    full, half = random_ms(0), random_ms(layers // 2)
    return 1 - (layers - left) * (full - half) / (layers // 2) / full


if __name__ == "__main__":
    main()

"""The answers for SmolLM2 in llama.cpp: through the gate, and timed beside the original.

    python experiments/convert/deploy.py MODEL.gguf experiments/runs/convert_1/models

MODEL.gguf and the weights of each answer of `convert.py MODEL.gguf --runtime llama.cpp` become q8_0
files, which must compute what the networks compute; one that does not is left out. The others are
timed turn by turn: a prompt of 512 tokens and 48 steps at a context of 768, which stand for the 256
steps of `chat`, one thread, by the processor's own time.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import flashnas as fn
from flashnas.base.errors import ExportError
from flashnas.profiling.llama_cpp.child import time_requests

HERE = Path(__file__).parent
VOCAB = 49_152
PROMPT, CONTEXT, STEPS, GENERATED, ROUNDS = 512, 768, 48, 256, 5


def main() -> None:
    """Export both, time both, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("original", type=Path)
    parser.add_argument("models", type=Path, help="folder of the weights of the answers")
    parser.add_argument("--out", type=Path, default=Path("experiments/runs/convert-gguf"))
    given = parser.parse_args()
    found = json.loads((HERE / "results" / "seed1_attention_llama_cpp.json").read_text())
    predicted = {answer["weights"]: answer["latency_ms"] for answer in found["answers"]}
    sources = {"original": given.original, **{name: given.models / name for name in predicted}}
    files, refused = {}, {}
    for name, source in sources.items():
        folder = given.out / name
        try:
            if not folder.exists():
                print(fn.export(str(source), to="gguf", type="q8_0", out=str(folder)), flush=True)
            files[name] = folder / "model.gguf"
        except ExportError as error:
            refused[name] = str(error)
            print(error, flush=True)
    measured: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(ROUNDS):
        for name, file in files.items():
            measured[name].append(request_ms(file, VOCAB))
            print(name, f"{measured[name][-1]:,.0f} ms", flush=True)
    medians = {name: statistics.median(values) for name, values in measured.items()}
    result = {"measured_ms": measured, "median_ms": medians, "refused": refused, "shares": {}}
    for name, value in medians.items():
        if name in predicted:
            shares = value / medians["original"], predicted[name] / found["model_ms"]
            result["shares"][name] = dict(zip(("measured", "predicted"), shares, strict=True))
    print(result["shares"])
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


if __name__ == "__main__":
    main()

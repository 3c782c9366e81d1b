"""Converted SmolLM2 in llama.cpp: through the gate, and timed beside the original.

    python experiments/convert/deploy.py MODEL.gguf experiments/runs/convert_1/models/*
    python experiments/convert/deploy.py MODEL.gguf experiments/runs/heal_chosen_*_51200 --name deploy_healed
    python experiments/convert/deploy.py MODEL.gguf healed_80 healed_90 --table my_table --out gguf --name deploy_chat

MODEL.gguf and the networks, folders of weights, become q8_0 files, which must compute what the
networks compute; one that does not is left out. The others are timed turn by turn: a prompt of 512
tokens and 48 steps at a context of 768, which stand for the 256 steps of `chat`, one thread, by the
processor's own time. What is predicted is that of --table; without one, a layer without attention saves
what it does in results/seed1_attention_llama_cpp.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path

import flashnas as fn
from flashnas.base.errors import ExportError
from flashnas.network.weights import read_architecture
from flashnas.profiling.llama_cpp.child import time_requests
from flashnas.training.healing import weights_folder

HERE = Path(__file__).parent
VOCAB, LAYERS = 49_152, 30
PROMPT, CONTEXT, STEPS, GENERATED, ROUNDS = 512, 768, 48, 256, 5


def main() -> None:
    """Export all, time all, and print a row for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("original", type=Path)
    parser.add_argument("networks", type=Path, nargs="+")
    parser.add_argument("--name", default="deploy", help="of the file in results/")
    parser.add_argument("--table", help="of `flashnas profile --runtime llama.cpp`")
    parser.add_argument("--out", type=Path, default=Path("experiments/runs/convert-gguf"))
    given = parser.parse_args()
    files, refused = {}, {}
    for source in (given.original, *given.networks):
        name = "original" if source == given.original else source.name
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
    shares = {
        source.name: {
            "measured": medians[source.name] / medians["original"],
            "predicted": predicted_share(source, given.table),
        }
        for source in given.networks
        if source.name in medians
    }
    result = {"measured_ms": measured, "median_ms": medians, "refused": refused, "shares": shares}
    print(shares)
    (HERE / "results" / f"{given.name}.json").write_text(json.dumps(result, indent=1) + "\n")


def predicted_share(weights: Path, table: str | None) -> float:
    """Of the model's milliseconds."""
    folder = weights / "final" if (weights / "final").is_dir() else weights_folder(str(weights))
    assert folder is not None
    network = read_architecture(folder)[0]
    if table:
        attention = next(spec for spec in network.operators if spec.kind == "a")
        ffn = next(spec for spec in network.operators if spec.kind == "f")
        model = replace(network, operators=(attention, ffn) * LAYERS)
        takes = [fn.estimate(x, table=table, workload="chat").latency_ms for x in (network, model)]
        return takes[0] / takes[1]
    found = json.loads((HERE / "results" / "seed1_attention_llama_cpp.json").read_text())
    saved_ms = next(row["saved_ms"] for row in found["singles"] if row["kind"] == "a to none")
    removed = LAYERS - sum(spec.kind == "a" for spec in network.operators)
    return float(1 - removed * saved_ms / found["model_ms"])


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

"""Is a file with trained weights slower in llama.cpp than one with random weights, from which
tables are made?

    python experiments/llama_cpp_cpu/trained_or_random.py     # 3 minutes of one core; needs the
    extra llama-cpp

The network that deploy.py chose, with weights after a short training and with random ones, two
files of each; timed turn by turn, processor time of one thread.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import flashnas as fn
from flashnas.formats.gguf.file import write_random_file
from flashnas.profiling.llama_cpp.child import time_requests

NETWORK = "640(vocab=8192): 3x(m2(head_dim=64,state=64) f) a(head_dim=64) f"
WEIGHTS, CONTEXT, STEPS, ROUNDS = "q8_0", 512, 256, 5


def main() -> None:
    """Print the medians, and all times."""
    network = fn.Architecture.parse(NETWORK)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        recipe = folder / "recipe.yaml"
        replace(
            fn.Recipe.load(Path(__file__).with_name("recipe.yaml")), tokens=65_536, curve_points=1
        ).save(recipe)
        trained = fn.train(
            NETWORK, recipe=str(recipe), data="sotu+stdlib", out=str(folder / "training"), threads=1
        )
        fn.export(str(trained.final), to="gguf", type=WEIGHTS, out=str(folder / "export"))
        files = {
            "trained": folder / "export" / "model.gguf",
            "trained, a copy": folder / "copy.gguf",
            "random": folder / "random.gguf",
            "random, drawn again": folder / "again.gguf",
        }
        shutil.copy(files["trained"], files["trained, a copy"])
        for name in ("random", "random, drawn again"):
            write_random_file(files[name], network, WEIGHTS)
        times: dict[str, list[float]] = {name: [] for name in files}
        for _ in range(ROUNDS):
            for name, file in files.items():
                found = time_requests(
                    file,
                    prompts=[],
                    contexts=[CONTEXT],
                    steps=STEPS,
                    vocab=network.vocab,
                    threads=1,
                    flash_attention=False,
                    cache_type="f16",
                )
                times[name].append(found["contexts"][0]["cpu_ms"])
    for name, values in times.items():
        print(
            f"{name:<20} {statistics.median(values):.3f} ms a token"
            f"  ({', '.join(f'{value:.2f}' for value in values)})"
        )


if __name__ == "__main__":
    main()

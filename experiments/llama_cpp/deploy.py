"""From an empty folder to a language model in llama.cpp, with its speed predicted: the whole loop on
a CPU.

    python experiments/llama_cpp/deploy.py                 # README.md: 81 minutes of one core
    python experiments/llama_cpp/deploy.py --size small    # `make deploy`: minutes

Profile operators in llama.cpp, validate, search within a budget of milliseconds for a token, train
the best network that keeps it, export it to GGUF, run it in llama.cpp. Each step is kept in --out;
running the command again continues.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import math
import statistics
from pathlib import Path
from typing import Any

import yaml

import flashnas as fn

HERE = Path(__file__).parent
SPACE = """\
template: served
families: [granite]
vocab: 8192
params: {params}
layers: {layers}
"""
WEIGHTS = "q8_0"
PROMPTS = ("My fellow citizens, the state of our union is", "def read_lines(path):\n    ")
GENERATED = 48  # tokens after each prompt
ROUNDS = 3  # timings of the trained file; the median counts
WINDOW = 256  # tokens; each is predicted from those before it


def main() -> None:
    """Run all steps and print what was predicted and what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=("full", "small", "tiny"), default="full")
    parser.add_argument(
        "--out", type=Path, help="folder of all steps (default: experiments/runs/llama_cpp_SIZE)"
    )
    given = parser.parse_args()
    plan: dict[str, Any] = yaml.safe_load((HERE / f"{given.size}.yaml").read_text())
    out = given.out or Path("experiments/runs") / f"llama_cpp_{given.size}"
    out.mkdir(parents=True, exist_ok=True)
    space, table, times = out / "space.yaml", out / "table", out / "times.csv"
    space.write_text(SPACE.format(**plan))
    recipe = fn.Recipe.load(str(HERE / "recipe.yaml"))
    recipe = dataclasses.replace(recipe, **plan.get("recipe", {}))

    step("1 profile", "whole networks with random weights in llama.cpp, one width after the other")
    print(
        fn.profile(
            runtime="llama.cpp",
            weights=WEIGHTS,
            space=str(space),
            workload=[plan["workload"]],
            out=str(table),
            progress=count,
        ),
        flush=True,
    )
    if not times.exists():
        step("2 validate", f"{plan['validated']} networks that the table was not fitted to")
        validation = fn.validate(
            table=str(table),
            space=str(space),
            workload=plan["workload"],
            count=plan["validated"],
            progress=count,
        )
        print(validation, flush=True)
        with times.open("w", newline="") as file:  # by which the search corrects what it predicts
            rows = csv.writer(file)
            rows.writerow(("network", "workload", "program", "device", "tpot_ms"))
            for timed in validation.architectures:
                tpot_ms = timed["measured"]["tpot_ms"]
                rows.writerow((timed["notation"], plan["workload"], "llama.cpp", "", tpot_ms))
    step("3 search", f"at most {plan['tpot_ms']} ms for a token")
    run = fn.search(
        space=str(space),
        table=str(table),
        workload=plan["workload"],
        times=str(times),
        budgets={"tpot_ms": plan["tpot_ms"]},
        workers=1,
        out=str(out / "run"),
        # published trainings are of larger networks, and the best one is trained anyway
        evidence="none",
        resume=True,
        objectives=("loss", "tpot_ms"),
        **plan["search"],
    )
    print(run, flush=True)
    within = [entry for entry in run.front if entry.figures["measured_tpot_ms"] <= plan["tpot_ms"]]
    if not within:
        raise SystemExit(
            f"no network of the front generates a token in {plan['tpot_ms']} ms as measured in"
            " llama.cpp"
        )
    best = min(within, key=lambda entry: entry.figures["loss"])

    why = f"the lowest loss of {len(within)} of {len(run.front)} that keep the budget as measured"
    step("4 train", f"{best.name}, {why}: {best.notation}")
    trained = fn.train(
        str(best.architecture),
        recipe=recipe,
        out=str(out / "training"),
        resume=True,
        threads=1,
        **plan["training"],
    )
    print(trained, flush=True)

    step("5 export", f"GGUF, {WEIGHTS}")
    file = out / "export" / "model.gguf"
    if not file.exists():
        print(
            fn.export(str(trained.final), to="gguf", type=WEIGHTS, out=str(out / "export")),
            flush=True,
        )

    step("6 run in llama.cpp", str(file))
    found = {
        **predicted_times(best, table, times, plan),
        **in_llama_cpp(file, Path(trained.final), recipe, plan),
    }
    found |= {
        "notation": best.notation,
        "params": trained.params,
        "loss": trained.loss,
        "bits_per_byte": trained.bits_per_byte,
        "tokens": trained.tokens,
    }
    (out / "result.json").write_text(json.dumps(found, indent=1) + "\n")
    picture(run, found, plan, out / "front.png")
    report(found, plan)
    print(f"\n{out / 'result.json'}, {out / 'front.png'}; chat with it: llama-cli -m {file}")


def step(name: str, text: str) -> None:
    """Print a heading."""
    print(f"\n== {name}: {text}", flush=True)


def count(done: int, of: int) -> None:
    """Show how far a measurement is, ten times."""
    if of and done * 10 // of != (done - 1) * 10 // of:
        print(f"   {done} of {of}", flush=True)


def predicted_times(best: Any, table: Path, times: Path, plan: dict[str, Any]) -> dict[str, float]:
    """Milliseconds for a token of the chosen network: predicted by table and times, with the upper end of the 90 %
    interval, and with random weights in llama.cpp.
    """
    estimate = fn.estimate(
        best.architecture, table=str(table), workload=plan["workload"], times=str(times)
    )
    return {
        "predicted_ms": estimate.tpot_ms,
        "upper_ms": estimate.bounds["tpot_ms"][1],
        "measured_ms": best.figures["measured_tpot_ms"],
    }


def in_llama_cpp(
    file: Path, weights: Path, recipe: fn.Recipe, plan: dict[str, Any]
) -> dict[str, Any]:
    """The trained file in llama.cpp: its speed, its perplexity beside that of the trained network,
    and what it says.
    """
    import torch

    from flashnas.data.dataset import prepare_dataset
    from flashnas.exporting.source import load_source
    from flashnas.families.gguf.vocabulary import vocabulary
    from flashnas.latency.workload import load_workload
    from flashnas.profiling.llama_cpp.child import Server, time_requests

    how = {"threads": 1, "flash_attention": False, "cache_type": "f16"}
    workload = load_workload(plan["workload"])
    source = load_source(str(weights))
    vocab = source.architecture.vocab
    rounds = [
        time_requests(
            file,
            prompts=[workload.prompt_tokens],
            contexts=[workload.context],
            steps=workload.generated_tokens,
            vocab=vocab,
            **how,
        )
        for _ in range(ROUNDS)
    ]
    dataset = prepare_dataset(plan["training"]["data"], recipe)
    windows = dataset.validation_slice(recipe, plan["windows"] * recipe.sequence_tokens)[:, :WINDOW]
    words = vocabulary(source.tokenizer, vocab)
    server = Server(file, max(WINDOW, *map(len, PROMPTS)) + GENERATED, **how)
    values = [
        next(
            entry["logprob"]
            for entry in server.after(window[:end], len(words.tokens), words.plain)
            if entry["id"] == window[end]
        )
        for window in windows.tolist()
        for end in range(1, len(window))
    ]
    texts = {
        prompt: server.post(
            "completion", prompt=prompt, n_predict=GENERATED, temperature=0.0, cache_prompt=False
        )["content"]
        for prompt in PROMPTS
    }
    with torch.no_grad():
        tokens_BT = torch.as_tensor(windows)
        logits_BTV = source.network.float()(tokens_BT)
        loss = torch.nn.functional.cross_entropy(
            logits_BTV[:, :-1].flatten(0, 1), tokens_BT[:, 1:].flatten()
        )
    trained_ms, prompt_ms = (
        statistics.median(times[what][0]["cpu_ms"] for times in rounds)
        for what in ("contexts", "prompts")
    )
    return {
        "trained_ms": trained_ms,
        "prompt_ms": prompt_ms,
        "perplexity": math.exp(float(loss)),
        "llama_cpp_perplexity": math.exp(-sum(values) / len(values)),
        "perplexity_tokens": len(values),
        "texts": texts,
    }


def report(found: dict[str, Any], plan: dict[str, Any]) -> None:
    """Print the result."""
    print(
        f"\n{found['notation']}: {found['params'] / 1e6:.1f} M parameters, {found['tokens']:,}"
        " training tokens,"
        f" {found['bits_per_byte']:.3f} bits/byte\n"
    )
    for name, text in (
        ("predicted_ms", "predicted from the table"),
        ("upper_ms", "upper end of the 90 % interval"),
        ("measured_ms", "measured in llama.cpp, random weights"),
        ("trained_ms", "measured in llama.cpp, the trained file"),
    ):
        print(f"  {found[name]:8.3f} ms a token  {text}")
    print(
        f"  {plan['tpot_ms']:8.3f} ms a token  budget\n\nperplexity of"
        f" {found['perplexity_tokens']:,} unseen tokens:"
        f" {found['perplexity']:.3f} in flashnas, {found['llama_cpp_perplexity']:.3f} in llama.cpp"
        f" ({WEIGHTS})"
    )
    for prompt, text in found["texts"].items():
        print(f"\n> {prompt}{text}")


def picture(run: Any, found: dict[str, Any], plan: dict[str, Any], path: Path) -> None:
    """Loss over milliseconds for a token: the trained candidates, and the front as predicted and as
    measured.
    """
    import matplotlib

    from flashnas.reporting.plot import BUDGET, FAINT, INK, MUTED, SERIES, STYLE, Plot, key

    trials = run.trials[run.trials["loss"].notna()]
    front = sorted(run.front, key=lambda entry: entry.figures["tpot_ms"])
    predicted, losses = ([entry.figures[name] for entry in front] for name in ("tpot_ms", "loss"))
    measured = [entry.figures["measured_tpot_ms"] for entry in front]
    chosen, blue = (
        predicted[[entry.notation for entry in front].index(found["notation"])],
        SERIES[7],
    )
    loss = losses[predicted.index(chosen)]
    low, high = trials["loss"].min(), trials["loss"].max()
    room = 0.12 * (high - low or 1)
    with matplotlib.rc_context(STYLE):
        plot = Plot(
            "Loss over milliseconds a token",
            "the bar reaches to the upper end of the 90 % interval",
        )
        keys = [
            key("trained, predicted", FAINT, "o"),
            key("front, predicted", blue, "o"),
            key("front, measured", BUDGET, "X"),
        ]
        plot.legend(handles=keys, loc="outside lower left", ncols=3)
        (panel,) = plot.panels
        panel.scatter(trials["tpot_ms"], trials["loss"], 46, FAINT)
        ends = [*predicted, max(plan["tpot_ms"], predicted[-1])]
        panel.step(ends, [*losses, losses[-1]], color=blue, where="post")
        reach = [[0], [found["upper_ms"] - chosen]]
        panel.errorbar([chosen], [loss], xerr=reach, ecolor=INK, capsize=2.5, linestyle="none")
        panel.scatter(predicted, losses, 46, blue, zorder=3)
        panel.scatter(measured, losses, 68, BUDGET, marker="X", zorder=3)
        panel.axvline(plan["tpot_ms"], color=MUTED, linestyle="--")
        panel.text(
            plan["tpot_ms"],
            1.012,
            "budget",
            color=MUTED,
            ha="center",
            transform=panel.get_xaxis_transform(),
        )
        panel.annotate(
            "chosen",
            (chosen, loss),
            xytext=(0, -19),
            textcoords="offset points",
            ha="center",
            weight="bold",
        )
        panel.set_ylim(low - 2 * room, high + room)
        panel.set_xlabel(f"ms a token in llama.cpp, {WEIGHTS}, one core")
        panel.set_ylabel("loss of the short training, nats a token")
        path.write_bytes(plot.png())


if __name__ == "__main__":
    main()

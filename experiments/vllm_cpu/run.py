"""vLLM on this CPU as the clock: a latency table of a family, its validation, and a search by it.

    python experiments/vllm_cpu/run.py --vllm-python .venv-vllm/bin/python     # README.md
    python experiments/vllm_cpu/run.py --vllm-python .. --family granite --out runs/vllm    # `make vllm`

Three networks of each family give the greedy tokens of transformers first. Each step is kept in
--out, and the same command continues.
"""

import argparse
import importlib.util
import json
import tempfile
import time
from pathlib import Path

import flashnas as fn
from flashnas.families.family import families

HERE = Path(__file__).resolve().parent
SPACE = """\
template: served
families: [{family}]
vocab: 8192
params: 5M..110M
layers: [4, 12]
"""
WORKLOAD = "batch=1,prompt=256,generated=128"
SHAPES = (
    (256, 4),
    (256, 7),
    (512, 6),
)  # width and layers of the networks whose tokens are compared
VALIDATED = 12
# vLLM compiles for minutes on a CPU
ENGINE = ["enforce_eager=true"]


def served_check():
    """experiments/served/check.py as a module."""
    file = HERE.parent / "served" / "check.py"
    spec = importlib.util.spec_from_file_location("served_check", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tokens(name, python):
    """Greedy tokens of networks with random weights in vLLM that are those of transformers."""
    module = served_check()
    family, found = families()[name], []
    ffn = "f(relu2=true)" if name == "nemotron_h" else "f"
    mixer, attention = family.search.sizes[0].mixers
    for width, layers in SHAPES:
        mixers = [attention if n % 4 == 1 else mixer for n in range(layers)]
        tied = "" if family.search.tied else ",tied=false"
        notation = f"{width}(vocab={module.VOCAB}{tied}): " + " ".join(f"{m} {ffn}" for m in mixers)
        with tempfile.TemporaryDirectory() as out:
            pythons, wanted = {"vllm": python}, ["vllm"]
            *_, (_, compared) = module.check(name, family, notation, pythons, wanted, Path(out))
        found.append({"notation": notation, **compared})
        print(found[-1], flush=True)
    return found


def timed(name, python, out):
    """The table of a family, predictions against networks that the fit has not seen, a search."""
    space, table = out / f"{name}.yaml", out / f"{name}_table"
    space.write_text(SPACE.format(family=name))
    begin = time.perf_counter()
    given = {"space": str(space), "workload": WORKLOAD, "vllm_python": python}
    made = fn.profile(
        **{**given, "workload": [WORKLOAD]}, runtime="vllm", engine_option=ENGINE, out=table
    )
    print(made, *made.warnings, sep="\n", flush=True)
    found = {"profile": made.to_dict(), "profile_min": round((time.perf_counter() - begin) / 60, 1)}
    begin = time.perf_counter()
    checked = fn.validate(table=str(table), count=VALIDATED, **given)
    print(checked, flush=True)
    found["validation"] = checked.metrics
    found["validate_min"] = round((time.perf_counter() - begin) / 60, 1)
    times = sorted(each["predicted"]["latency_ms"] for each in checked.architectures)
    budget = times[len(times) // 2]
    run = fn.search(
        table=str(table),
        space=str(space),
        workload=WORKLOAD,
        budgets={"latency_ms": budget},
        out=out / f"{name}_search",
        resume=True,
    )
    best = run.recommended
    print(f"{budget:.0f} ms: {best.architecture}, {best.latency_ms:.0f} ms", flush=True)
    found["search"] = {
        "budget_ms": budget,
        "recommended": str(best.architecture),
        "latency_ms": best.latency_ms,
        "measured_ms": best.measured_ms,
    }
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--vllm-python", required=True, help="interpreter in which vLLM is installed"
    )
    parser.add_argument("--family", action="append", help="granite, nemotron_h; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("experiments/runs/vllm_cpu"))
    parser.add_argument("--results", type=Path, help="default: results.json in --out")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.results or arguments.out / "results.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    for name in arguments.family or ("granite", "nemotron_h"):
        done = results.setdefault(name, {})
        if "tokens" not in done:
            done["tokens"] = tokens(name, arguments.vllm_python)
            file.write_text(json.dumps(results, indent=1) + "\n")
        if "search" not in done:
            done |= timed(name, arguments.vllm_python, arguments.out)
            file.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""vLLM on this CPU as the clock: a latency table of a family, its validation, and a search by it.

    python experiments/serving/vllm_cpu.py --vllm-python .venv-vllm/bin/python     # README.md
    python experiments/serving/vllm_cpu.py --vllm-python .. --family granite --out runs/vllm    # `make vllm`

Each step is kept in --out, and the same command continues.
"""

import argparse
import json
import time
from pathlib import Path

import flashnas as fn
from flashnas.latency.workload import load_workload
from flashnas.profiling.vllm.target import Vllm

HERE = Path(__file__).resolve().parent
SIZES = {"params": "10M..80M", "vocab": 8192}
WORKLOAD = "batch=1,prompt=256,generated=128"
VALIDATED = 10
# vLLM compiles for minutes on a CPU
ENGINE = ["enforce_eager=true"]


def timed(name, python, out):
    """The table of a family, predictions against networks that the fit has not seen, a search."""
    table = out / f"{name}_table"
    begin = time.perf_counter()
    given = {"space": name, **SIZES, "workload": WORKLOAD, "vllm_python": python}
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
        space=name,
        **SIZES,
        workload=WORKLOAD,
        budgets={"latency_ms": budget},
        out=out / f"{name}_search",
        resume=True,
    )
    best = run.recommended
    engine = Vllm(vllm_python=python, engine_option=tuple(ENGINE))
    front = {}
    for trial in run.front:  # a search has chosen them, which the validated networks are not
        measured = engine.time_request(trial.architecture, load_workload(WORKLOAD))["latency_ms"]
        front[str(trial.architecture)] = [trial.latency_ms, measured]
        print(f"{trial.latency_ms:8.0f} ms predicted, {measured:8.0f} measured: {trial.notation}")
    print(f"recommended within {budget:.0f} ms: {best.architecture}", flush=True)
    recommended = str(best.architecture)
    return {**found, "budget_ms": budget, "recommended": recommended, "front": front}


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
        if "front" not in done:
            done |= timed(name, arguments.vllm_python, arguments.out)
            file.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Proves that a change to flashnas changes no answer: estimates, expected losses, trajectories,
exports, errors.

    python tools/proof.py record before.json.gz         # on the old code; 3 minutes of one core
    python tools/proof.py compare                       # against tools/records/proof.json.gz
    python tools/proof.py compare before.json.gz --only errors --all

`compare` ends with exit code 1 if something differs. It uses the command line, the public names of
`import flashnas` and data files, and no other module, so that it goes on while modules move.
Numbers are compared to 1e-12 of their size, all else to the byte. Durations, dates, versions and
the places of folders are left out. The trajectories use an evaluator that is a formula, so that no
training has to be repeated to the last digit.
"""

import argparse
import contextlib
import gzip
import hashlib
import importlib
import json
import math
import os
import random
import re
import runpy
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
ROOT = TOOLS.parent  # of what is observed
RECORD = TOOLS / "records" / "proof.json.gz"
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "100",
    "PYTHONHASHSEED": "0",
    "NO_COLOR": "1",
    "PYTHONPATH": os.pathsep.join((str(ROOT), str(TOOLS))),
}
TOLERANCE = 1e-12
LIMIT_S = 120  # of a command
CHANGING = re.compile(
    r".*seconds.*|tokens_per_s|started|finished|host|flashnas|machine|packages"
)  # keys
CHANGING_TEXT = [
    (re.compile(pattern), word)
    for pattern, word in (
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?([+-]\d\d:?\d\d)?", "DATE"),
        (r"\b\d{8}-\d{6}\b", "DATE"),  # in the name of a run
        (r"\bflashnas \d[\w.]*", "flashnas VERSION"),
        (r"(?m)^\[(\d+/\d+| *\d+ %)\] .*\n?", ""),
        (r"\b\d[\d.,]* ?(s|min|h|core-hours|core-minutes|tokens/s)\b", "TIME"),
    )
]
COLUMNS = [
    "number",
    "cycle",
    "origin",
    "label",
    "state",
    "reason",
    "genotype",
    "notation",
    "hash",
    "hidden",
    "params",
    "ttft_ms",
    "tpot_ms",
    "latency_ms",
    "lower_ms",
    "upper_ms",
    "throughput_tok_s",
    "memory_gb",
    "loss",
    "full_loss",
    "full_loss_sd",
    "expected_recall",
    "expected_recall_sd",
    "outside",
    "source",
]
WORKLOADS = (
    "decode-8k",
    "decode-1k",
    "prefill-2k",
    "chat",
    "batch=8,prompt=512,generated=512",
    "throughput-32k",
)
OBSERVATIONS = {}


def observation(function):
    """`function` yields (name, value) pairs."""
    OBSERVATIONS[function.__name__] = function
    return function


# -- what flashnas is asked ------------------------------------------------------------------------


def flashnas(line):
    """Exit code, stdout and stderr of `python -m flashnas LINE`; by a fork that has the
    libraries.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        if (pid := os.fork()) == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            signal.alarm(LIMIT_S)
            warnings.resetwarnings()
            warnings.simplefilter("ignore", DeprecationWarning)
            sys.argv, code = ["flashnas", *shlex.split(line)], 0
            try:
                runpy.run_module("flashnas", run_name="__main__", alter_sys=True)
            except SystemExit as stop:
                code = stop.code or 0
            except BaseException:
                traceback.print_exc()
                code = 99
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        out.seek(0)
        err.seek(0)
        text = out.read()
        with contextlib.suppress(ValueError):
            text = json.loads(text) if "--json" in line else text
        return {"code": code, "out": text, "err": err.read()}


calls_left = math.inf  # before the process is killed


def loss_of(architecture):
    """A made-up loss: lower for more parameters, with noise by network."""
    global calls_left
    calls_left -= 1
    if calls_left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    noise = hashlib.sha256(f"{architecture.hash}".encode()).digest()
    return {"loss": 9 - 0.2 * math.log(architecture.params) + noise[0] / 1000 + noise[1] / 1e5}


def searched(name, evaluator=loss_of, **options):
    """What a search with an evaluator ended with."""
    import flashnas as fn

    common = {
        "calibration": "paper",
        "trials": 20,
        "cycle_size": 5,
        "workers": 1,
        "seed": 1,
        "measure": False,
    }
    run = fn.search(evaluator=evaluator, out=f"{name}/run", **{**common, **options})
    return trajectory(run)


def trajectory(run):
    """The columns of the trials, and the front."""
    return {
        "trials": run.trials.reindex(columns=COLUMNS).to_dict(orient="records"),
        "front": [entry.architecture.hash for entry in run.front],
    }


def killed(name, after, **options):
    """A search that was killed after some evaluations, and continued."""
    global calls_left
    if (pid := os.fork()) == 0:
        calls_left = after
        searched(name, **options)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    return searched(name, resume=True, **options)


def files(folder):
    """Name -> text, or the hash of a file that holds none."""
    contents = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }
    return {
        name: hashlib.sha256(data).hexdigest()
        if b"\0" in data or len(data) > 100_000
        else data.decode()
        for name, data in contents.items()
    }


def words_of(path):
    """The words of a report, line by line."""
    html = Path(path).read_text()
    body = re.sub(r"<(script|style|svg)\b.*?</\1>", "", html, flags=re.S)
    words = re.sub(r"(?m)^seconds\n+[\d.]+$", "", re.sub(r"<[^>]*>", "\n", body))
    return [line for line in words.split("\n") if line.strip()]


# -- observations ----------------------------------------------------------------------------------


@observation
def lists():
    import flashnas as fn

    for kind in ("tables", "spaces", "workloads", "samplers", "recipes", "presets", "operators"):
        yield kind, fn.list_names(kind)


@observation
def trajectories():
    tiny = {"space": "tiny", "workload": "chat", "budget_ms": 60}
    for sampler in ("bayes", "aging-evolution", "random", "nsga2", "tpe"):
        yield sampler, searched(sampler, sampler=sampler, budgets={"latency_ms": 14_000})
    whole = searched("whole", sampler="bayes", **tiny)
    yield "tiny", whole
    yield "killed and continued", same(whole, killed("whole_killed", 12, sampler="bayes", **tiny))
    in_workers = importlib.import_module("proof").loss_of
    for workers in (2, 4):
        yield (
            f"{workers} workers",
            same(
                whole,
                searched(
                    f"workers_{workers}", in_workers, sampler="bayes", workers=workers, **tiny
                ),
            ),
        )
    yield (
        "layerwise",
        searched(
            "layerwise",
            space="layerwise",
            sampler="nsga2",
            budget_ms=9_000,
            seed=7,
            baselines=False,
            objectives=["loss", "latency_ms", "memory_gb"],
            budgets={"memory_gb": 8},
        ),
    )
    yield (
        "start from",
        searched("start", start_from=["random/run"], sampler="random", budget_ms=9_000, trials=6),
    )


def same(first, second):
    return plain(first) == plain(second)


@observation
def answers():
    """Searches without trainings."""
    import flashnas as fn

    for name, more in (
        ("nemotron_flash", "--calibration paper --budget-ms 14000"),
        ("layerwise", "--calibration paper --budget-ms 14000"),
        ("served", "--budget-ms 20000"),
        ("granite", "--table a100_sxm --workload chat --calibration paper --budget-ms 900"),
        ("nemotron_flash", "--calibration paper --budget-ms 4000 --min-recall -0.03"),
    ):
        folder = f"untrained_{name}_{more.split()[-1]}/run"
        found = flashnas(f"search --trials 0 --space {name} {more} --out {folder} --json")
        run = fn.load_run(folder)
        yield f"{name} {more}", (found["code"], trajectory(run))
        yield f"words of {name} {more}", words_of(run.report(f"{folder}.html"))


@observation
def estimates():
    import numpy as np

    import flashnas as fn

    rng = np.random.default_rng(0)
    counts = {
        "nemotron_flash": 160,
        "layerwise": 60,
        "served": 80,
        "qwen3_5": 80,
        "nemotron_h": 80,
        "small": 40,
    }
    tables = {name: fn.LatencyTable.load(name) for name in fn.list_names("tables")}
    drawn = []
    for name, count in counts.items():
        space = fn.load_space(name)
        genotypes = [space.sample(rng) for _ in range(count)]
        child = space.mutate(genotypes[0], rng)
        yield (
            name,
            {
                "size": space.size(),
                "child": str(child),
                "cost": space.cost(child),
                "dict": space.to_dict(),
                "encoded": space.encode(child),
                "features": space.features(child),
                "back": str(space.decode(space.encode(child))),
                "baselines": [
                    (label, [network.notation for network in sizes])
                    for label, sizes in space.baselines()
                ],
            },
        )
        networks = [space.architectures(genotype) for genotype in genotypes]
        drawn += [(name, sizes[int(rng.integers(len(sizes)))]) for sizes in networks]
    for number, (name, network) in enumerate(drawn):
        table, workload = (
            list(tables)[number % len(tables)],
            WORKLOADS[number // 3 % len(WORKLOADS)],
        )
        try:
            found = fn.estimate(
                network, table=tables[table], workload=workload, calibration="paper"
            ).to_dict()
            found.pop("breakdown") if number % 20 else None
        except fn.FlashnasError as error:
            found = str(error)
        yield (
            f"{number:03d} {name} {table} {workload}",
            {
                "hash": network.hash,
                "cache": network.cache_bytes(1000),
                "decode": network.decode_flops(1000),
                "prefill": network.prefill_flops(1000),
                "proxy": fn.Recipe.load("cpu").proxy_of(network).notation,
                "estimate": found,
            },
        )


@observation
def commands():
    shutil.copytree(ROOT / "experiments/llama_cpp_cpu/results/table", "table")
    Path("own.csv").write_bytes((ROOT / "experiments/full_training/own.csv").read_bytes())
    for line in (
        "estimate nemotron-flash-1b",
        "table info h100_sxm",
        "estimate '2048: 3x(d f m2 f)' --table a100_sxm --workload chat --json",
        "estimate nemotron-flash-3b --weights fp8 --workload throughput-32k --calibration paper --json",
        "estimate '1024: 4x(gd f a f)' --train-tokens 10B --evidence own.csv --json",
        "estimate '1024: 4x(moe f h f)' --json",
        "estimate '256(vocab=8192): 4x(m2(state=64) f) a(head_dim=64) f' --table table"
        " --workload batch=1,prompt=64,generated=64 --json",
        "table info table --json",
    ):
        yield line, flashnas(line)


@observation
def exports():
    for to, network in (
        ("gguf", "64(vocab=300): m2(head_dim=16,state=16) f a(head_dim=16) f"),
        (
            "hf",
            "64(vocab=300): m2(head_dim=16,state=16) f(relu2=true)"
            " a(head_dim=16,rope_share=0.0) f(relu2=true)",
        ),
        ("hf", "64(vocab=300): conv f a(head_dim=16,qk_norm=true) f"),
        ("hf", "64(vocab=300): d(head_dim=16) f gd(head_dim=16) swa(head_dim=16,window=8) f"),
        ("hf", "64(vocab=300): m f gla(head_dim=16) f r7(head_dim=16) f kda(head_dim=16) f"),
    ):
        folder = f"export_{hashlib.sha256(network.encode()).hexdigest()[:6]}"
        found = flashnas(f"export '{network}' --to {to} --init-seed 3 --out {folder} --json")
        if isinstance(found["out"], dict):
            found["out"].pop("parity", None)  # rounding of another program
        yield f"{to} {network}", (found, files(folder) if found["code"] == 0 else None)


@observation
def recipes():
    import flashnas as fn

    for name in fn.list_names("recipes"):
        recipe = fn.Recipe.load(name)
        yield (
            name,
            (
                recipe.to_dict(),
                recipe.steps,
                recipe.curve_at,
                recipe.depth_multiplier(6),
                recipe.lr_factor(3),
                recipe.multiplier("m2.conv"),
            ),
        )


@observation
def published():
    import flashnas as fn

    for line in ("evidence", "evidence 'a f' 'm2 f'", "evidence 'd f m2 f' 'a f'"):
        yield line, (flashnas(line)["out"], flashnas(f"{line} --json"))
    for source in ("2501.00663", "2511.18890"):
        yield f"without {source}", fn.loss_model(without=source).coefficients()


@observation
def errors():
    Path("bad.yaml").write_text("template: three_stage\nwidths: [64, ninety]\n")
    Path("broken.yaml").write_text("trials: [1, 2\nspace: {")
    Path("unknown.yaml").write_text("trails: 4\n")
    Path("bad.csv").write_text("group,source\na,b\n")
    for line in (TOOLS / "mistakes.txt").read_text().splitlines():
        yield line, flashnas(line)


# -- the record ------------------------------------------------------------------------------------


def plain(value):
    """JSON-ready, without what changes from run to run."""
    if isinstance(value, dict):
        return {
            plain(str(key)): plain(item)
            for key, item in value.items()
            if not CHANGING.fullmatch(str(key))
        }
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in (sorted(value) if isinstance(value, set) else value)]
    if hasattr(value, "tolist"):  # of numpy
        return plain(value.tolist())
    if isinstance(value, bool | int) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    text = str(value).replace(str(Path.cwd()), "HERE").replace(str(ROOT), "ROOT")
    for pattern, word in CHANGING_TEXT:
        text = pattern.sub(word, text)
    return text


def prepare():
    """Settings, and files in the folder in which observations are made."""
    os.environ.update(SETTINGS, FLASHNAS_CACHE=str(Path.cwd() / "cache"))
    sys.path[:0] = [str(ROOT), str(TOOLS)]
    warnings.simplefilter("ignore")
    for library in (
        "torch",
        "pandas",
        "optuna",
        "scipy.optimize",
        "scipy.stats",
        "matplotlib.figure",
    ):
        importlib.import_module(library)  # forks then need not
    Path("texts").mkdir()
    rng = random.Random(0)
    words = ("the", "state", "of", "delta", "rule", "attention", "window", "token", "fast")
    for number in range(40):
        lines = [" ".join(rng.choices(words, k=9)) + "." for _ in range(40)]
        Path(f"texts/{number:02d}.txt").write_text(f"Text {number}. " + "\n".join(lines))


def observe(groups):
    """{"group/name": value} of all observations of these groups."""
    before, seen = Path.cwd(), {}
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        prepare()
        for group in groups:
            started, count = time.monotonic(), len(seen)
            try:
                seen.update(
                    (f"{group}/{name}", plain(value)) for name, value in OBSERVATIONS[group]()
                )
            except Exception as error:
                traceback.print_exc()
                seen[f"{group}/raised"] = plain(f"{type(error).__name__}: {error}")
            print(
                f"{group}: {len(seen) - count} observations in {time.monotonic() - started:.0f} s",
                file=sys.stderr,
            )
        os.chdir(before)
    return json.loads(json.dumps(seen))


def differences(was, now, path=""):
    """(path, was, now) of each difference."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in sorted({*was, *now}):
            yield from differences(was.get(key, "absent"), now.get(key, "absent"), f"{path}.{key}")
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for place, pair in enumerate(zip(was, now, strict=True)):
            yield from differences(*pair, f"{path}[{place}]")
    elif isinstance(was, float) and isinstance(now, float):
        if not math.isclose(was, now, rel_tol=TOLERANCE, abs_tol=0):
            yield path, was, now
    elif was != now or type(was) is not type(now):
        yield path, was, now


def shown(was, now):
    """Both texts from shortly before they part."""
    was, now = (value if isinstance(value, str) else json.dumps(value) for value in (was, now))
    start = next(
        (place for place, pair in enumerate(zip(was, now, strict=False)) if pair[0] != pair[1]), 0
    )
    start = max(0, start - 40)
    return " | ".join(
        f"{word} {text[start : start + 120]!r}" for word, text in (("was", was), ("is", now))
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("record", "compare"))
    parser.add_argument("file", type=Path, nargs="?", default=RECORD)
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        choices=list(OBSERVATIONS),
        metavar="NAME",
        help=f"some of {', '.join(OBSERVATIONS)}",
    )
    parser.add_argument(
        "--all", action="store_true", help="show all differences of each, not only the first"
    )
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != SETTINGS["PYTHONHASHSEED"]:  # which is read at the start
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **SETTINGS})
    was = (
        json.loads(gzip.decompress(options.file.read_bytes()))
        if options.action == "compare"
        else {}
    )
    groups = options.only or list(OBSERVATIONS)
    now = observe(groups)
    if options.action == "record":
        options.file.write_bytes(gzip.compress(json.dumps(now, indent=0).encode(), mtime=0))
        return int(any(name.endswith("/raised") for name in now))
    count = 0
    for name in sorted({*now, *(name for name in was if name.partition("/")[0] in groups)}):
        found = list(differences(was.get(name, "absent"), now.get(name, "absent")))
        count += bool(found)
        print(f"{'differs' if found else 'equal':8}{name}")
        for path, *pair in found if options.all else found[:1]:
            print(f"        {path or '.'} ({len(found)} differences): {shown(*pair)}")
    print(f"{count} observations differ")
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())

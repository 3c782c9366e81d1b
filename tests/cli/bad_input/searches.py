"""Bad input of `search`: its numbers and words, and the places that it writes to."""

from __future__ import annotations

from typing import Any

from bad_input.words import (
    CHAT,
    GARBAGE,
    HUGE,
    LONG,
    PRECIOUS,
    bomb,
    case,
    copied,
    edited,
    export,
    folder,
    garbage,
    profile,
    removed,
    search,
    train,
    write,
)

# -- search: numbers and words -------------------------------------------------------------------------------

for flag, value, *more in (
        ("--trials", "-1"), ("--trials", "1.5"), ("--trials", "many"), ("--trials", HUGE, "apart"),
        ("--tokens", "0"), ("--tokens", "-1"), ("--tokens", HUGE, "apart"), ("--tokens", LONG, "apart"),
        ("--cycle-size", "0"), ("--cycle-size", HUGE, "apart"), ("--seed", "-1"), ("--seed", LONG),
        ("--seed", "1.5"),
        ("--workers", "0"), ("--workers", "-3"), ("--workers", "1000000", "apart"),
        ("--candidate-timeout-s", "0"), ("--candidate-timeout-s", "-1"), ("--candidate-timeout-s", "nan"),
        ("--candidate-timeout-s", "inf"), ("--candidate-timeout-s", "soon"),
        ("--confidence", "0"), ("--confidence", "1"), ("--confidence", "-2"), ("--confidence", "nan"),
        ("--confidence", "sure"), ("--sampler", "nsga3"), ("--mode", "compiled"), ("--mode", "fast"),
        ("--budget-ms", "-3"), ("--budget-ms", "0"), ("--budget-ms", "nan"), ("--budget-ms", "inf"),
        ("--budget-ms", "1e400"),
        ("--budget-ms", "slow"), ("--budget", "memory_gb"), ("--budget", "memory_gb=much"),
        ("--budget", "memory_gb=nan"),
        ("--budget", "memory_gb=-inf"), ("--budget", "memory_gb=0"), ("--budget", "latency=3"), ("--budget",
                                                                                                 "=3"),
        ("--budget", "latency_ms=3"), ("--sampler-option", "population"), ("--sampler-option",
                                                                           "popluation=3"),
        ("--sampler-option", "population=0"), ("--sampler-option", "population=nan"),
        ("--sampler-option", "population=many"), ("--sampler-option", f"population={HUGE}"),
        ("--sampler-option", "tournament=1.5"), ("--sampler-option", "seed=3"), ("--sampler-option",
                                                                                 "space=3"),
        ("--objectives", ""), ("--objectives", "loss"), ("--objectives", "loss,loss"), ("--objectives",
                                                                                        "loss,speed"),
        ("--objectives", "latency_ms,params"), ("--objectives", "loss,latency_ms,recall,mad,params"),
        ("--rungs", "0"), ("--rungs", "-1"), ("--rungs", "1.5"), ("--rungs", "many"), ("--rungs", HUGE),
        ("--rungs", "100"), ("--rungs", "256"), ("--rungs", ""), ("--rungs", "auto,128"),
        ("--rungs", "128,64"),
        ("--rungs", "128,128"), ("--rungs", "auto"), ("--rungs", "none,128"), ("--rungs", "0%"),
        ("--rungs", "100%"),
        ("--rungs", "50%,25%"), ("--rungs", "nan%"), ("--rungs", "half%"),
        ("--rank-by", "x"), ("--train-tokens", "many"), ("--train-tokens", "0"), ("--train-tokens", "0B"),
        ("--min-recall", "2"), ("--min-recall", "-3"), ("--min-recall", "nan"), ("--min-recall", "all"),
        ("--seeds", "0"), ("--seeds", "1.5"), ("--seeds", HUGE),
        ("--table", "h100_sx"), ("--space", "nemotron"), ("--recipe", "cpuu"), ("--storage", "foo://bar"),
        ("--storage", "sqlite:////nowhere/study.db"), ("--storage", "")):
    place = flag.strip("-").partition("-")[0]
    said = {"1e400": "inf", "": "none|''|storage", "memory_gb=much": "much", "loss": "loss",
            "latency_ms=3": "latency_ms",
            "seed=3": "seed", "space=3": "space", "population=0": "0", "population=nan": "nan",
            "population=many": "many",
            "tournament=1.5": "1.5", "popluation=3": "popluation", "memory_gb=nan": "nan",
            "memory_gb=-inf": "-inf",
            "memory_gb=0": "0", "latency=3": "latency", "loss,loss": "'loss'", "loss,speed": "speed",
            f"population={HUGE}": HUGE, "auto,128": "auto", "none,128": "none",
            HUGE: f"{HUGE}|{10**20:,}"}.get(value, value)
    sampler = ("--sampler", "aging-evolution") if flag == "--sampler-option" else ()
    case(f"search{flag}={value[:40]}", search(*sampler, flag, value), said, *([] if sampler else [place]),
         apart="apart" in more)
ROWS = "group,source,operators,params,hidden,tokens,metric,value\n"
ROW = "mine,me,12x(m2 f),300M,1024,10B,val_loss,2.9\n"
for name, text, *said in (
        ("empty", "", "group"), ("no-rows", ROWS, "no row"), ("group-of-one", ROWS + ROW, "mine"),
        ("no-source", ROWS + ROW + ROW.replace(",me,", ",,"), "csv:3", "source"),
        ("no-column-source", ROWS.replace("source,", "") + 2 * ROW.replace("me,", ""), "source"),
        ("unknown-operator", ROWS + ROW + ROW.replace("m2 f", "zz f"), "csv:3", "zz"),
        ("value", ROWS + ROW + ROW.replace("2.9", "low"), "csv:3", "low"),
        ("metric", ROWS + ROW + ROW.replace("val_loss", "accuracy"), "csv:3", "accuracy"),
        ("params", ROWS + ROW + ROW.replace("300M", "large"), "csv:3", "large"),
        ("no-text", GARBAGE, "own.csv")):
    case(f"search-evidence-{name}", search("--evidence", "{tmp}/own.csv"), "own.csv", *said,
         files=[write("own.csv", text)])
case("search-evidence-missing", search("--evidence", "{tmp}/missing.csv"), "{tmp}/missing.csv",
     "No such file")
case("search-evidence-folder", search("--evidence", "{tmp}"), "{tmp}", "folder")
for flag, value in (("--evidence", "{tmp}/own.csv"), ("--min-recall", "-0.05")):
    name = flag.strip("-")
    case(f"search-{name}-by-short", search(flag, value, "--rank-by", "short"), flag, "--rank-by full",
         files=[write("own.csv", ROWS + 2 * ROW)])
    case(f"search-{name}-with-rungs", search(flag, value, "--rungs", "50%"), flag, "--rank-by full", "rungs",
         files=[write("own.csv", ROWS + 2 * ROW)])
case("search-no-trials-by-short", search("--trials", "0", "--rank-by", "short"), "--trials", "--rank-by full")
case("search-no-trials-with-rungs", search("--trials", "0", "--rungs", "50%"), "--trials", "--rank-by full",
     "rungs")
case("search-no-trials-of-tasks", search("--trials", "0", "--objectives", "recall,latency_ms"), "--trials",
     "name no loss")
case("search-recall-by-short", search("--objectives", "loss,latency_ms,expected_recall", "--rank-by",
                                      "short"),
     "--objectives", "expected_recall", "--rank-by full")
case("search-executor", search("--executor", "storge"), "--executor", "storge", "storage")
case("search-executor-option", search("--executor-option", "worker_memory=4"), "worker_memory",
     "worker_memory_gb")
case("search-executor-option-no-number", search("--executor-option", "worker_memory_gb=much"),
     "worker_memory_gb",
     "a number", "much")
case("search-executor-option-negative", search("--executor-option", "worker_memory_gb=-1"),
     "--executor-option",
     "worker_memory_gb", "at least 0.5", "-1")
case("search-executor-option-too-little-memory", search("--executor-option", "worker_memory_gb=0.01"),
     "--executor-option", "worker_memory_gb", "at least 0.5", "0.01")
case("search-executor-storage-without-a-database", search("--executor", "storage"), "--executor", "--storage"
                                                                                                  " URL")
case("search-executor-storage-no-url", search("--executor", "storage", "--storage", "here"), "here",
     "postgresql://")
case("search-executor-ray-address", search("--executor", "ray", "--executor-option", "adress=here"), "adress",
     "address")
for name, address in (("port", "127.0.0.1:1"), ("host", "no.such.host.invalid:1234"),
                      ("client", "ray://127.0.0.1:1")):
    case(f"search-executor-ray-wrong-{name}", search("--executor", "ray", "--executor-option",
                                                     f"address={address}"),
         address, "does not answer")
case("search-executor-ray-no-address", search("--executor", "ray", "--executor-option", "address=here"),
     "'here'",
     "must be HOST:PORT")
case("search-storage-of-another-kind", search("--storage", "redis://host/0"), "redis", "postgresql://")
case("search-storage-without-a-server", search("--storage", "postgresql://me:secret@127.0.0.1:1/x"),
     "127.0.0.1",
     absent=("secret",))
case("search-storage-with-an-at-in-the-password", search("--storage",
                                                         "postgresql://me:sec@ret@127.0.0.1:1/x"),
     "127.0.0.1", "%40", absent=("sec@", "ret@"))
case("search-storage-with-a-wrong-port", search("--storage", "postgresql://me:secret@127.0.0.1:port/x"),
     "127.0.0.1",
     "'port'", absent=("secret",))
case("search-processes-none", search("--processes-per-candidate", "0"), "--processes-per-candidate",
     "at least 1", "0")
case("search-processes-that-do-not-divide-the-batch", search("--processes-per-candidate", "3"),
     "batch_sequences",
     "multiple of the 3 processes", "got 4")
case("worker-processes", ["worker", "--storage", "sqlite:///{tmp}/a.db", "--processes-per-candidate", "0"],
     "--processes-per-candidate", "at least 1", "0")
case("worker-without-words", ["worker"], "--storage")
case("worker-storage", ["worker", "--storage", "nowhere"], "nowhere", "postgresql://")
case("worker-storage-folder-missing", ["worker", "--storage", "sqlite:///{tmp}/no/a.db"], "{tmp}/no/a.db",
     "open")
case("worker-storage-is-no-database", ["worker", "--storage", "sqlite:///{quick}"], "{quick}",
     "not a database")
case("worker-storage-without-a-server", ["worker", "--storage", "postgresql://me:secret@127.0.0.1:1/x"],
     "127.0.0.1",
     absent=("secret",))
for name, said in (("justname", "module:function"), (":function", "module:function"), ("nosuch:thing",
                                                                                       "nosuch"),
                   ("os:nothing", "nothing"), ("os:name", "a function")):
    case(f"worker-evaluator-{name}", ["worker", "--storage", "sqlite:///{tmp}/a.db", "--evaluator", name],
         name, said)
case("worker-memory", ["worker", "--storage", "sqlite:///{tmp}/a.db", "--worker-memory-gb", "0.01"],
     "--worker-memory-gb", "at least 0.5", "0.01")
case("worker-number", ["worker", "--storage", "sqlite:///{tmp}/a.db", "--workers", "0"], "--workers", "0")
case("search-budget-twice", search("--budget", "params=1e9", "--budget", "params=2e9"), "params", "twice")
case("search-budget-out-of-reach", search("--budget-ms", "1e-9"), "budget", "1e-09")
case("search-strict-without-measuring", search("--strict"), "strict", "measure")
case("search-rungs-between-points", search("--rungs", "100"), "rungs", "points of the curve of recipe", "128",
     "100")
case("search-rungs-at-the-end", search("--rungs", "128,256"), "rungs", "before its end at 256 tokens",
     "got 256")
case("search-rungs-tokens-and-shares", search("--rungs", "64,50%"), "rungs must be all tokens or all shares",
     "64,50%")
case("search-rungs-shares-at-the-end", search("--rungs", "75%"), "rungs", "got 75%", "none trains every"
                                                                                     " candidate")
case("search-rungs-not-increasing", search("--rungs", "192,128"), "rungs must increase; got 192,128")
case("search-rungs-auto-without-a-late-point", search("--rungs", "auto"), "rungs auto", "192", "curve_points"
                                                                                               " 2")
case("search-rungs-and-recall", search("--rungs", "128", "--objectives", "loss,latency_ms,recall"), "rungs",
     "recall")
case("search-rung-chance-0", search("--rungs", "128", "--rung-chance", "0"), "rung-chance", "above 0", "0")
case("search-rung-chance-1", search("--rungs", "128", "--rung-chance", "1"), "rung-chance", "below 1", "1")
case("search-seeds-beyond-the-largest", search("--seed", str(2**32 - 1), "--seeds", "2"), "seeds",
     "4,294,967,295")
case("search-rungs-with-the-largest-seed", search("--seed", str(2**32 - 1), "--rungs", "128"), "seeds",
     "got 3")
case("search-strict-without-the-device", ["search", "--strict", "--data", "{corpus}", "--trials", "1",
                                          "--out",
                                          "{tmp}/out"],
     "strict", "h100_sxm")
case("search-confidence-without-validation", search("--confidence", "0.5"), "validat")
case("search-confidence-without-a-time", [word for word in search("--confidence", "0.5", "--budget",
                                                                  "params=1e9")
                                          if word not in ("--budget-ms", "1e6")], "confidence", "budget")
case("search-table-does-not-cover", search("--space", "nemotron_flash"), "table", "nemotron_flash|1024")

for name, content, *expect in (
        ("missing", None, "c.yaml"), ("garbage", GARBAGE, "c.yaml", "UTF-8"), ("list", "- 3", "c.yaml:1",
                                                                               "list"),
        ("wrong-key", "trails: 3", "c.yaml:1", "trails", "trials"),
        ("trials-true", "trials: true", "c.yaml:1", "True|true"),
        ("trials-text", "trials: '3'", "c.yaml:1", "'3'"), ("trials-huge", f"trials: {HUGE}", HUGE),
        ("seed-negative", "seed: -1", "seed", "-1"), ("seed-23-digits", f"seed: {LONG}", "seed", LONG),
        ("timeout-nan", "candidate_timeout_s: .nan", "candidate_timeout_s", "nan"),
        ("timeout-inf", "candidate_timeout_s: .inf", "candidate_timeout_s", "inf"),
        ("budgets-list", "budgets: [3]", "c.yaml:1", "budgets"),
        ("budgets-text", "budgets: {params: few}", "params", "few"),
        ("budgets-nan", "budgets: {params: .nan}", "params", "nan"), ("budgets-name", "budgets: {parms: 3}",
                                                                      "parms"),
        ("objectives-number", "objectives: 5", "objectives", "5"),
        ("objectives-list", "objectives: [[loss]]", "objectives"),
        ("options-list", "sampler_options: [3]", "sampler_options"), ("null", "data:", "c.yaml:1", "data"),
        ("twice", "seed: 1\nseed: 2", "c.yaml:2", "seed"), ("key-number", "3: 4", "c.yaml:1", "3"),
        ("tag", "data: !!python/name:os.system", "c.yaml:1", "python/name"), ("bomb", bomb("space: *a8"),
                                                                              "c.yaml")):
    words = search("--config", "c.yaml")
    for flag in {"trials": ("--trials", "2"), "seed": ()}.get(name.partition("-")[0], ()):
        words.remove(flag)
    case(f"search-config-{name}", words, *expect, files=[] if content is None else [write("c.yaml", content)],
         apart=name == "trials-huge")

# -- places to write -----------------------------------------------------------------------------------------

for command, right in (("search", search), ("train", train), ("profile", profile), ("export", export)):
    def out(name: str, where: str, *expect: str, command: str = command, right: Any = right,
            **more: Any) -> None:
        more.setdefault("absent", ("free room",))
        case(f"{command}-out-{name}", right("--out", where), *expect, **more)

    out("file", "{tmp}/file", "file", files=[write("file", "mine")])
    out("below-a-file", "{tmp}/file/below", "file", files=[write("file", "mine")])
    out("300-characters", "{tmp}/" + "x" * 300, "xxxx")
    out("300-characters-below", "{tmp}/" + "x" * 300 + "/below", "xxxx")
    if command != "train":  # which can write there
        out("not-utf8", "{tmp}/a\udcff", "udcff", apart=True)
    out("zero-byte", "{tmp}/a\0b", "out|a\\x00b")
    out("foreign", "{tmp}/full", "full", files=[folder("full", PRECIOUS)])
    out("proc", "/proc/nowhere/out", "/proc/nowhere")
    out("sys", "/sys/nowhere/out", "/sys/nowhere")
for name, words in (("merge", ["table", "merge", "{table}", "{table}"]),
                    ("import", ["table", "import", "aiconfigurator", "h100_sxm", "--path", "{tmp}/full"])):
    case(f"table-{name}-out-file", [*words, "--out", "{tmp}/file"], "file|full",
         files=[write("file", "mine"), folder("full", PRECIOUS)])
case("table-merge-out-foreign", ["table", "merge", "h100_sxm", "h100_sxm", "--out", "{tmp}/full"],
     "full|h100_sxm",
     files=[folder("full", PRECIOUS)])
case("table-merge-out-below-a-file", ["table", "merge", "{table}", "{tmp}/table", "--out",
                                      "{tmp}/file/below"], "file",
     files=[write("file", "mine"), copied("table")])
case("table-merge-out-not-utf8", ["table", "merge", "{table}", "{tmp}/table", "--out", "{tmp}/a\udcff"],
     "udcff",
     files=[copied("table")], apart=True)
case("search-out-foreign-before-the-corpus", search("--out", "{tmp}/full", "--data", "nowhere"), "full",
     files=[folder("full", PRECIOUS)])
case("search-out-of-a-run", search(out="{run}"), "--resume", "{run}")
case("train-out-of-a-training", train(out="{training}"), "--resume", "{training}")
case("train-resume-without-out", [*train()[:-2], "--resume"], "--out")
case("train-out-of-a-run", train("--resume", out="{run}"), "{run}")
case("search-out-of-a-training", search("--resume", out="{training}"), "{training}")
case("export-full-disk", export(), "out|space|large", files=[], apart=True, file_limit=40_000)
case("profile-runtime", profile("--runtime", "llama"), "--runtime", "did you mean 'llama.cpp'")
case("profile-vllm-missing", ["profile", "--runtime", "vllm", "--out", "{tmp}/out"], "needs --vllm-python"
                                                                                     " FILE")
case("profile-vllm-nowhere", ["profile", "--runtime", "vllm", "--vllm-python", "{tmp}/python", "--out",
                              "{tmp}/out"],
     "--vllm-python", "could not be started")
case("profile-vllm-of-torch", profile("--vllm-python", "x"), "--vllm-python is for --runtime vllm")
case("profile-weights-of-torch", profile("--weights", "f16"), "--weights is for --runtime llama.cpp")
in_llama_cpp = ["profile", "--runtime", "llama.cpp", "--out", "{tmp}/out"]
for flag, value in (("--mode", "eager"), ("--dtype", "float32"), ("--backend", "torch"), ("--seconds", "1")):
    case(f"profile-llama-cpp{flag}", [*in_llama_cpp, flag, value], f"{flag} is for --runtime torch")
# where the runtime is not installed, the line names what installs it
for name, words, expect in (
        ("weights", ("--weights", "q4_k"), "--weights|did you mean"), ("cache", ("--cache-type", "q2"),
                                                                       "--cache-type"),
        ("cache-q8", ("--cache-type", "q8_0"), "needs --flash-attention"),
        ("batch", ("--space", "llama_cpp", "--workload", "batch=2,generated=4"), "one sequence at a time"),
        ("space", ("--space", "nemotron_flash"), "llama.cpp cannot hold this network")):
    case(f"profile-llama-cpp-{name}", [*in_llama_cpp, *words], f"{expect}|flashnas[llama-cpp]")
VAST: dict[str, Any] = {"template": "layerwise", "model": {"vocab": 131072}, "widths": [262144],
                        "layers": {"depth": [4, 16], "require": ["m2", "a"],
                                   "choices": ["m2(head_dim=64,state=64) f", "a(head_dim=64) f"]}}
case("profile-llama-cpp-memory", [*in_llama_cpp, "--space", "space.yaml", "--workload", CHAT],
     "of width 262144|flashnas[llama-cpp]", "GB are free|flashnas[llama-cpp]", files=[write("space.yaml",
                                                                                            VAST)])
case("profile-out-other-device", profile("--out", "{tmp}/table"), "table", "Other CPU",
     files=[copied("table"), edited("table/device.yaml", ["label"], "Other CPU")])
case("profile-out-damaged-meta", profile("--out", "{tmp}/table"), "meta.yaml",
     files=[copied("table"), garbage("table/meta.yaml")])
case("profile-out-damaged-rows", profile("--out", "{tmp}/table"), "operator_decode.parquet",
     files=[copied("table"), garbage("table/operator_decode.parquet")])
case("profile-out-without-device", profile("--out", "{tmp}/table"), "device.yaml",
     files=[copied("table"), removed("table/device.yaml")])

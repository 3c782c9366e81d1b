"""Bad input of `search`: its numbers and words, and the places that it writes to."""

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
    search,
    train,
    write,
)

# -- search: numbers and words ---------------------------------------------------------------------

for flag, value, *more in (
    ("--trials", "many"),
    ("--tokens", HUGE, "apart"),
    ("--seed", LONG),
    ("--workers", "1000000", "apart"),
    ("--sampler", "nsga3"),
    ("--budget-ms", "1e400"),
    ("--budget", "memory_gb"),
    ("--budget", "memory_gb=nan"),
    ("--budget", "latency=3"),
    ("--objectives", "loss,loss"),
    ("--train-tokens", "0B"),
    ("--min-recall", "all"),
    ("--table", "h100_sx"),
    ("--space", "nemotron"),
    ("--recipe", "cpuu"),
):
    place = flag.strip("-").partition("-")[0]
    said = {
        "1e400": "inf",
        "memory_gb=nan": "nan",
        "latency=3": "latency",
        "loss,loss": "'loss'",
        HUGE: f"{HUGE}|{10**20:,}",
    }.get(value, value)
    case(f"search{flag}={value[:40]}", search(flag, value), said, place, apart="apart" in more)
for key, value, *said in (
    ("cycle_size", int(HUGE), f"{HUGE}|{int(HUGE):,}", "keys.yaml:1"),
    ("candidate_timeout_s", float("inf"), "inf", "keys.yaml:1"),
    ("confidence", "sure", "sure", "keys.yaml:1"),
    ("mode", "fast", "fast"),
    ("rank_by", "x", "'x'", "keys.yaml:1"),
    ("sampler_options", {"popluation": 3}, "popluation"),
    ("sampler_options", {"population": float("nan")}, "nan"),
    ("sampler_options", {"seed": 3}, "seed", "keys.yaml:"),
    ("baselines", "no", "'no'", "keys.yaml:1"),
):
    case(
        f"search-{key}={str(value)[:40]}",
        search("--sampler", "aging-evolution"),
        *said,
        *([] if key == "sampler_options" else [key]),
        keys={key: value},
        apart=key == "cycle_size",
    )
for flag in ("--no-measure", "--cycle-size=4", "--rank-by"):
    key = flag.removeprefix("--no-").strip("-").partition("=")[0].replace("-", "_")
    case(f"search{flag}", search(flag), f"'{flag}'", f"{key} is a key of a file for --config")
ROWS = "group,source,operators,params,hidden,tokens,metric,value\n"
ROW = "mine,me,12x(m2 f),300M,1024,10B,val_loss,2.9\n"
for name, text, *said in (
    ("no-rows", ROWS, "no row"),
    ("group-of-one", ROWS + ROW, "mine"),
    ("unknown-operator", ROWS + ROW + ROW.replace("m2 f", "zz f"), "csv:3", "zz"),
    ("no-text", GARBAGE, "own.csv"),
):
    case(
        f"search-evidence-{name}",
        search("--evidence", "{tmp}/own.csv"),
        "own.csv",
        *said,
        files=[write("own.csv", text)],
    )
case(
    "search-evidence-missing",
    search("--evidence", "{tmp}/missing.csv"),
    "{tmp}/missing.csv",
    "No such file",
)
for flag, value in (("--min-recall", "-0.05"),):
    name = flag.strip("-")
    case(
        f"search-{name}-by-short",
        search(flag, value),
        flag,
        "rank_by full",
        keys={"rank_by": "short"},
        files=[write("own.csv", ROWS + 2 * ROW)],
    )
case(
    "search-no-trials-by-short",
    search("--trials", "0"),
    "--trials",
    "rank_by full",
    keys={"rank_by": "short"},
)
case("search-executor", search("--executor", "rey"), "--executor", "rey", "ray")
case(
    "search-executor-option",
    search("--executor-option", "worker_memory=4"),
    "worker_memory",
    "worker_memory_gb",
)
case(
    "search-executor-option-too-little-memory",
    search("--executor-option", "worker_memory_gb=0.01"),
    "--executor-option",
    "worker_memory_gb",
    "at least 0.5",
    "0.01",
)
for name, address in (("port", "127.0.0.1:1"),):
    case(
        f"search-executor-ray-wrong-{name}",
        search("--executor", "ray", "--executor-option", f"address={address}"),
        address,
        "does not answer",
    )
case(
    "search-executor-ray-no-address",
    search("--executor", "ray", "--executor-option", "address=here"),
    "'here'",
    "must be HOST:PORT",
)
case("search-budget-out-of-reach", search("--budget-ms", "1e-9"), "budget", "1e-09")
case(
    "search-strict-without-measuring",
    search(),
    "strict",
    "measure",
    keys={"strict": True, "measure": False},
)
case("search-confidence-without-validation", search(), "validat", keys={"confidence": 0.5})
case(
    "search-table-does-not-cover",
    search("--space", "nemotron_flash"),
    "table",
    "nemotron_flash|1024",
)

for name, content, *expect in (
    ("missing", None, "c.yaml"),
    ("garbage", GARBAGE, "c.yaml", "UTF-8"),
    ("wrong-key", "trails: 3", "c.yaml:1", "trails", "trials"),
    ("trials-true", "trials: true", "c.yaml:1", "True|true"),
    ("trials-huge", f"trials: {HUGE}", HUGE),
    ("timeout-nan", "candidate_timeout_s: .nan", "candidate_timeout_s", "nan"),
    ("budgets-name", "budgets: {parms: 3}", "parms"),
    ("objectives-list", "objectives: [[loss]]", "objectives"),
    ("key-number", "3: 4", "c.yaml:1", "3"),
    ("tag", "data: !!python/name:os.system", "c.yaml:1", "python/name"),
    ("bomb", bomb("space: *a8"), "c.yaml"),
):
    words = search("--config", "c.yaml")
    for flag in {"trials": ("--trials", "2"), "seed": ()}.get(name.partition("-")[0], ()):
        words.remove(flag)
    case(
        f"search-config-{name}",
        words,
        *expect,
        files=[] if content is None else [write("c.yaml", content)],
        apart=name == "trials-huge",
    )

# -- places to write -------------------------------------------------------------------------------

for command, right in (
    ("search", search),
    ("train", train),
    ("profile", profile),
    ("export", export),
):

    def out(name, where, *expect, command=command, right=right, **more):
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
for name, words in (("merge", ["table", "merge", "{table}", "{table}"]),):
    case(
        f"table-{name}-out-file",
        [*words, "--out", "{tmp}/file"],
        "file|full",
        files=[write("file", "mine"), folder("full", PRECIOUS)],
    )
case(
    "table-merge-out-foreign",
    ["table", "merge", "h100_sxm", "h100_sxm", "--out", "{tmp}/full"],
    "full|h100_sxm",
    files=[folder("full", PRECIOUS)],
)
case(
    "search-out-foreign-before-the-corpus",
    search("--out", "{tmp}/full", "--data", "nowhere"),
    "full",
    files=[folder("full", PRECIOUS)],
)
case("search-out-of-a-run", search(out="{run}"), "--resume", "{run}")
case("train-out-of-a-training", train(out="{training}"), "--resume", "{training}")
case("train-out-of-a-run", train("--resume", out="{run}"), "{run}")
case("search-out-of-a-training", search("--resume", out="{training}"), "{training}")
case("export-full-disk", export(), "out|space|large", files=[], apart=True, file_limit=40_000)
case("profile-runtime", profile("--runtime", "llama"), "--runtime", "did you mean 'llama.cpp'")
in_llama_cpp = ["profile", "--runtime", "llama.cpp", "--out", "{tmp}/out"]
for flag, value in (("--mode", "eager"),):
    case(f"profile-llama-cpp{flag}", [*in_llama_cpp, flag, value], f"{flag} is for --runtime torch")
# where the runtime is not installed, the line names what installs it
for name, words, expect in (
    ("weights", ("--weights", "q4k"), "--weights|did you mean"),
    ("cache", ("--cache-type", "q2"), "--cache-type"),
    ("cache-q8", ("--cache-type", "q8_0"), "needs --flash-attention"),
    (
        "batch",
        ("--space", "llama_cpp", "--workload", "batch=2,generated=4"),
        "one sequence at a time",
    ),
    ("space", ("--space", "nemotron_flash"), "llama.cpp cannot hold this network"),
):
    case(f"profile-llama-cpp-{name}", [*in_llama_cpp, *words], f"{expect}|flashnas[llama-cpp]")
VAST = {
    "template": "layerwise",
    "model": {"vocab": 131072},
    "widths": [262144],
    "layers": {
        "depth": [4, 16],
        "require": ["m2", "a"],
        "choices": ["m2(head_dim=64,state=64) f", "a(head_dim=64) f"],
    },
}
case(
    "profile-llama-cpp-memory",
    [*in_llama_cpp, "--space", "space.yaml", "--workload", CHAT],
    "of width 262144|flashnas[llama-cpp]",
    "GB are free|flashnas[llama-cpp]",
    files=[write("space.yaml", VAST)],
)
case(
    "profile-out-other-device",
    profile("--out", "{tmp}/table"),
    "table",
    "Other CPU",
    files=[copied("table"), edited("table/device.yaml", ["label"], "Other CPU")],
)
case(
    "profile-out-damaged-meta",
    profile("--out", "{tmp}/table"),
    "meta.yaml",
    files=[copied("table"), garbage("table/meta.yaml")],
)

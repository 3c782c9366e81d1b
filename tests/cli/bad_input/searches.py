"""Bad input of `search`: its numbers and words, and the places that it writes to."""

from bad_input.words import (
    CHAT,
    HUGE,
    PRECIOUS,
    bomb,
    case,
    copied,
    edited,
    export,
    folder,
    profile,
    search,
    train,
    write,
)

# -- search: numbers and words ---------------------------------------------------------------------

for flag, value in (
    ("--trials", "many"),
    ("--tokens", HUGE),
    ("--workers", "1000000"),
    ("--budget", "memory_gb"),
    ("--budget", "memory_gb=nan"),
    ("--budget", "latency=3"),
    ("--objectives", "loss,loss"),
    ("--train-tokens", "0B"),
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
    case(f"search{flag}={value[:40]}", search(flag, value), said, place)
for key, value, *said in (
    ("rank_by", "x", "'x'", "keys.yaml:1"),
    ("sampler_options", {"popluation": 3}, "popluation"),
    ("sampler_options", {"population": float("nan")}, "nan"),
    ("sampler_options", {"seed": 3}, "seed", "keys.yaml:"),
):
    case(
        f"search-{key}={str(value)[:40]}",
        search("--sampler", "aging-evolution"),
        *said,
        *([] if key == "sampler_options" else [key]),
        keys={key: value},
    )
for flag in ("--no-measure",):
    key = flag.removeprefix("--no-").strip("-").partition("=")[0].replace("-", "_")
    case(f"search{flag}", search(flag), f"'{flag}'", f"{key} is a key of a file for --config")
ROWS = "group,source,operators,params,hidden,tokens,metric,value\n"
ROW = "mine,me,12x(m2 f),300M,1024,10B,val_loss,2.9\n"
for name, text, *said in (
    ("no-rows", ROWS, "no row"),
    ("group-of-one", ROWS + ROW, "mine"),
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

for name, address in (("port", "127.0.0.1:1"),):
    case(
        f"search-executor-ray-wrong-{name}",
        search("--executor", "ray", "--executor-option", f"address={address}"),
        address,
        "does not answer",
    )
case("search-budget-out-of-reach", search("--budget-ms", "1e-9"), "budget", "1e-09")
case(
    "search-strict-without-measuring",
    search(),
    "strict",
    "measure",
    keys={"strict": True, "measure": False},
)

case(
    "search-table-does-not-cover",
    search("--space", "nemotron_flash"),
    "table",
    "nemotron_flash|1024",
)

for name, content, *expect in (
    ("missing", None, "c.yaml"),
    ("wrong-key", "trails: 3", "c.yaml:1", "trails", "trials"),
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
        out("not-utf8", "{tmp}/a\udcff", "udcff")
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
    "search-out-foreign-before-the-corpus",
    search("--out", "{tmp}/full", "--data", "nowhere"),
    "full",
    files=[folder("full", PRECIOUS)],
)
case("search-out-of-a-run", search(out="{run}"), "--resume", "{run}")
case("train-out-of-a-training", train(out="{training}"), "--resume", "{training}")
case("train-out-of-a-run", train("--resume", out="{run}"), "{run}")
case("search-out-of-a-training", search("--resume", out="{training}"), "{training}")
case("export-full-disk", export(), "out|space|large", files=[], file_limit=40_000)
case("profile-runtime", profile("--runtime", "llama"), "--runtime", "did you mean 'llama.cpp'")
in_llama_cpp = ["profile", "--runtime", "llama.cpp", "--out", "{tmp}/out"]
for flag, value in (("--mode", "eager"),):
    case(f"profile-llama-cpp{flag}", [*in_llama_cpp, flag, value], f"{flag} is for --runtime torch")
# where the runtime is not installed, the line names what installs it
for name, words, expect in (
    ("weights", ("--weights", "q4k"), "--weights|did you mean"),
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

"""Bad input of `bench`, `profile`, `validate` and `table`."""

import shutil

from bad_input.words import (
    ARCH,
    CHAT,
    GARBAGE,
    HUGE,
    PRECIOUS,
    SPACE,
    case,
    copied,
    cut_half,
    edited,
    estimate,
    folder,
    garbage,
    profile,
    removed,
    search,
    twin,
    validate,
    write,
)

# -- benches ---------------------------------------------------------------------------------------


case("bench-info-nowhere", ["bench", "info", "nowhere"], "nowhere", "shipped")
case(
    "bench-info-garbage",
    ["bench", "info", "{tmp}/b"],
    "bench.parquet",
    files=[write("b/bench.parquet", GARBAGE)],
)
case(
    "bench-info-other-table",
    ["bench", "info", "{tmp}/b"],
    "bench.parquet",
    "not a bench",
    files=[
        lambda paths: (
            (paths["tmp"] / "b").mkdir(),
            shutil.copy(paths["run"] / "trials.parquet", paths["tmp"] / "b" / "bench.parquet"),
        )
    ],
)
case("search-bench-nowhere", search(), "nowhere", "bench", keys={"bench_table": "nowhere"})

# -- profile and validate --------------------------------------------------------------------------

for flag, value, *more in (
    ("--device", "cuda"),
    ("--mode", "cuda_graph"),
    ("--backend", "magic"),
    ("--threads", "1000000", "apart"),
    ("--seconds", "inf"),
):
    case(
        f"profile{flag}={value}",
        profile(flag, value),
        flag.strip("-"),
        value,
        apart="apart" in more,
    )
for flag, value, *more in (
    ("-n", "0"),
    ("-n", HUGE, "apart"),
    ("--mode", "compiled"),
    ("--runtime", "vllm"),
    ("--table", "nowhere"),
):
    case(
        f"validate{flag}={value}",
        validate(flag, value),
        flag.strip("-"),
        value,
        apart="apart" in more,
    )
ONE = {
    **SPACE,
    "widths": [32],
    "repeats": [1, 1],
    "max_operators": 3,
    "blocks": {"mixers": ["a(head_dim=16)"], "ratios": ["0:1"], "ffns_per_mixer": [0]},
}
case(
    "validate-more-than-there-are",
    validate("--space", "space.yaml", "-n", "2"),
    "2",
    files=[write("space.yaml", ONE)],
)
case("validate-absent-device", validate(table="h100_sxm"), "h100_sxm")
case(
    "validate-validations-text",
    validate(table="{tmp}/table"),
    "validations",
    files=[copied("table"), edited("table/meta.yaml", ["validations"], "hello")],
)

# -- tables ----------------------------------------------------------------------------------------

META, DEVICE = "table/meta.yaml", "table/device.yaml"
for name, builders, *expect in (
    ("without-rows", [removed("table/operator_decode.parquet")], "operator_decode.parquet"),
    (
        "checksum",
        [edited(META, ["kinds", "operator_decode", "sha256"], "0" * 64)],
        "operator_decode.parquet",
        "checksum",
    ),
    ("cut-rows", [cut_half("table/operator_decode.parquet")], "operator_decode.parquet"),
    ("garbage-meta", [garbage(META)], "meta.yaml", "UTF-8"),
    ("format", [edited(META, ["format"], 99)], "meta.yaml", "99"),
    ("kind-unknown", [edited(META, ["kinds", "gem"], {})], "gem"),
    ("stacks-list", [edited(META, ["stacks"], [3])], "stacks"),
    ("platform", [edited(DEVICE, ["platform"], "tpu")], "platform", "tpu"),
    ("flops-nan", [edited(DEVICE, ["peak_flops"], float("nan"))], "peak_flops", "nan"),
    ("calibration-text", [edited(META, ["calibration"], "hello")], "calibration", "hello"),
    ("calibration-key", [edited(META, ["calibration"], {"scael": 2.0})], "scael"),
    (
        "calibration-key",
        [edited(META, ["calibration"], {"engine": {"scael": 1}})],
        "scael",
    ),
):
    case(
        f"estimate-table-{name}",
        estimate(ARCH, "--table", "{tmp}/table", "--workload", CHAT),
        *expect,
        files=[copied("table"), *builders],
    )
    if name in ("checksum", "calibration-text", "calibration-key"):
        case(
            f"table-info-{name}",
            ["table", "info", "{tmp}/table"],
            *expect,
            files=[copied("table"), *builders],
        )
    if name == "calibration-text":
        case(
            f"search-table-{name}",
            search("--table", "{tmp}/table"),
            *expect,
            files=[copied("table"), *builders],
        )
case("table-info-missing", ["table", "info", "nowhere"], "nowhere")
case("table-action", ["table", "inform", "h100_sxm"], "inform")
case(
    "table-merge-itself", ["table", "merge", "{table}", "{table}", "--out", "{tmp}/out"], "{table}"
)
case(
    "table-merge-other-device",
    ["table", "merge", "h100_sxm", "a100_sxm", "--out", "{tmp}/out"],
    "h100_sxm",
    "a100_sxm",
)
case(
    "table-merge-other-calibration",
    ["table", "merge", "{tmp}/table", "{tmp}/second/table", "--out", "{tmp}/out"],
    "calibration",
    files=[
        copied("table"),
        edited(META, ["calibration"], {"paper": {"scale": 2.0}}),
        twin("second"),
        edited(META, ["calibration"], {"paper": {"scale": 3.0}}),
    ],
)
case(
    "table-merge-damaged",
    ["table", "merge", "{table}", "{tmp}/table", "--out", "{tmp}/out"],
    "operator_decode.parquet",
    files=[copied("table"), garbage("table/operator_decode.parquet")],
)
SYSTEM = ["table", "import", "aiconfigurator", "h100_sxm", "--out", "{tmp}/out", "--path"]
case(
    "table-import-source",
    ["table", "import", "aiconfig", "h100_sxm", "--out", "{tmp}/out"],
    "aiconfig",
)
case("table-import-missing", [*SYSTEM, "{tmp}/nowhere.whl"], "nowhere.whl")
case("table-import-folder", [*SYSTEM, "{tmp}/full"], "full", files=[folder("full", PRECIOUS)])
SYSTEMS = [folder("systems/data/h100_sxm", "nothing"), write("systems/h100_sxm.yaml", {"gpu": {}})]
case(
    "table-import-system",
    ["table", "import", "aiconfigurator", "h100", "--out", "{tmp}/out", "--path", "{tmp}"],
    "'h100'",
    "h100_sxm",
    files=SYSTEMS,
)
case("table-import-key", [*SYSTEM, "{tmp}"], "h100_sxm.yaml", files=SYSTEMS)
case(
    "table-import-list",
    [*SYSTEM, "{tmp}"],
    "h100_sxm.yaml",
    files=[SYSTEMS[0], write("systems/h100_sxm.yaml", [3])],
)

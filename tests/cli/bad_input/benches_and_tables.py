"""Bad input of `bench`, `profile`, `validate` and `table`."""

import shutil

from bad_input.words import (
    ARCH,
    CHAT,
    HUGE,
    PRECIOUS,
    SPACE,
    case,
    copied,
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

for flag, value in (
    ("--device", "cuda"),
    ("--backend", "magic"),
    ("--threads", "1000000"),
):
    case(
        f"profile{flag}={value}",
        profile(flag, value),
        flag.strip("-"),
        value,
    )
for flag, value in (
    ("-n", "0"),
    ("-n", HUGE),
    ("--table", "nowhere"),
):
    case(
        f"validate{flag}={value}",
        validate(flag, value),
        flag.strip("-"),
        value,
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
    ("format", [edited(META, ["format"], 99)], "meta.yaml", "99"),
    ("kind-unknown", [edited(META, ["kinds", "gem"], {})], "gem"),
    ("flops-nan", [edited(DEVICE, ["peak_flops"], float("nan"))], "peak_flops", "nan"),
    ("calibration-text", [edited(META, ["calibration"], "hello")], "calibration", "hello"),
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

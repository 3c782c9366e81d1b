"""Bad input of what reads a finished run: `search --resume`, `pareto` and `report`."""

from bad_input.words import (
    GARBAGE,
    PRECIOUS,
    again,
    as_file,
    as_folder,
    case,
    copied,
    cut_half,
    cut_middle_line,
    edited,
    folder,
    removed,
    replaced,
    search,
    without,
    write,
)

# -- a run, continued ------------------------------------------------------------------------------

JOURNAL = "run/study.journal"
for name, builders, *expect in (
    ("journal-garbage-with-line-end", [write(JOURNAL, GARBAGE + b"\n")], "study.journal"),
    ("journal-cut-line", [cut_middle_line(JOURNAL)], "study.journal"),
    ("journal-number", [write(JOURNAL, "5\n")], "study.journal"),
    ("journal-outcome-renamed", [replaced(JOURNAL, '"outcome"', '"outcom"')], "study.journal"),
    ("question-list", [edited("run/run.yaml", ["question"], [1])], "run.yaml", "question"),
    ("without-yaml", [removed("run/run.yaml")], "run.yaml"),
    ("yaml-folder", [as_folder("run/run.yaml")], "run.yaml"),
    ("pareto-file", [as_file("run/pareto")], "pareto"),
    ("lock-folder", [as_folder("run/.lock")], ".lock"),
):
    case(f"search-resume-{name}", again(), *expect, files=[copied("run"), *builders])
case("search-resume-other-seed", again("--seed", "3"), "question.seed", "3", files=[copied("run")])

# -- pareto ----------------------------------------------------------------------------------------

case("pareto-without-a-run", ["pareto"], "RUN is required")
case("pareto-missing", ["pareto", "nowhere"], "nowhere")
case("pareto-twice", ["pareto", "{run}", "{run}"], "{run}", "named twice")
case(
    "pareto-without-a-question",
    ["pareto", "{tmp}/run"],
    "{tmp}/run",
    "question",
    files=[copied("run"), without("run/run.yaml", "question")],
)
case(
    "pareto-other-seed",
    ["pareto", "{run}", "{tmp}/run"],
    "{tmp}/run",
    "do not compare",
    "seed",
    files=[copied("run"), edited("run/run.yaml", ["question", "seed"], 77)],
)
case(
    "pareto-damaged-recipe",
    ["pareto", "{tmp}/run"],
    "{tmp}/run",
    "recipe",
    files=[copied("run"), edited("run/run.yaml", ["question", "recipe"], {"mine": 1})],
)
case("pareto-table", ["pareto", "{run}", "--table", "h100"], "h100", "h100_sxm")
case(
    "pareto-budget-unmet",
    ["pareto", "{run}", "--budget-ms", "0.000001"],
    "no network of the runs",
    "nearest",
)
case(
    "pareto-budget-twice",
    ["pareto", "{run}", "--budget-ms", "3", "--budget", "latency_ms=3"],
    "--budget-ms",
    "same",
)
case(
    "pareto-objectives-alone",
    ["pareto", "{run}", "--objectives", "loss"],
    "--objectives",
    "2 to 4",
    absent=("search.",),
)
case("pareto-confidence", ["pareto", "{run}", "--confidence", "0.9"], "validat")
case(
    "pareto-out",
    ["pareto", "{run}", "--out", "{tmp}/out"],
    "{tmp}/out",
    "not empty",
    files=[folder("out", PRECIOUS)],
)
case("search-start-from-missing", search("--start-from", "nowhere"), "nowhere")
case(
    "search-start-from-other-tokens",
    search("--start-from", "{run}", "--tokens", "2048"),
    "{run}",
    "cannot start from its networks",
    "recipe.tokens",
)

# -- report ----------------------------------------------------------------------------------------

TRIALS = "run/trials.parquet"
for name, builders, *expect in (
    ("missed", [edited("run/pareto/01.yaml", ["missed"], 5)], "01.yaml", "missed"),
    (
        "hidden",
        [edited("run/pareto/01.yaml", ["architecture", "hidden"], "x")],
        "01.yaml",
        "hidden",
    ),
    ("trials-cut", [cut_half(TRIALS)], "trials.parquet"),
    ("without-trials", [removed(TRIALS)], "trials.parquet"),
):
    case(f"report-{name}", ["report", "{tmp}/run"], *expect, files=[copied("run"), *builders])
case("report-missing", ["report", "nowhere"], "nowhere")
for name, words, spelling in (
    ("report", ["report", ""], "RUN"),
    ("evidence", ["evidence", "a f", "--evidence="], "--evidence"),
    ("merge", ["table", "merge", "", "{table}", "--out", "{tmp}/out"], "FIRST"),
    ("search", search("--recipe", ""), "--recipe"),
):
    case(f"{name}-empty", words, f"{spelling}", "must not be empty; got ''")
case("runs-missing", ["runs", "nowhere"], "nowhere")
case(
    "report-foreign", ["report", "{tmp}/full"], "full", "run.yaml", files=[folder("full", PRECIOUS)]
)
PUBLISHED = "group,source,operators,params,metric,value\ng,s,12x(a f),350M,val_loss,2.5\n"
for name, line, *expect in (
    ("params-of-no-width", "g,s,12x(d f),1M,val_loss,2.4", "t.csv:3", "params", "1,000,000"),
    ("group-of-one", "h,s,12x(d f),350M,val_loss,2.4", "t.csv:2|t.csv:3", "at least 2", "1"),
):
    for command in (["evidence"], ["estimate", "1024: 12x(a f)"]):
        case(
            f"{command[0]}-own-{name}",
            [*command, "--evidence", "t.csv"],
            *expect,
            files=[write("t.csv", PUBLISHED + line + "\n")],
        )
    case(
        f"evidence-left-out-{name}",
        ["evidence", "--left-out", "t.csv"],
        *expect,
        files=[write("t.csv", PUBLISHED + line + "\n")],
    )

"""Bad input of what reads a finished run: `search --resume` and `report`."""

from bad_input.words import (
    again,
    as_file,
    as_folder,
    case,
    copied,
    cut_half,
    edited,
    removed,
    search,
    write,
)

# -- a run, continued ------------------------------------------------------------------------------

for name, builder, *expect in (
    ("journal-cut", cut_half("run/study.journal"), "study.journal"),
    ("without-yaml", removed("run/run.yaml"), "run.yaml"),
    ("yaml-folder", as_folder("run/run.yaml"), "run.yaml"),
    ("pareto-file", as_file("run/pareto"), "pareto"),
    ("lock-folder", as_folder("run/.lock"), ".lock"),
):
    case(f"search-resume-{name}", again(), *expect, files=[copied("run"), builder])
case("search-start-from-missing", search("--start-from", "nowhere"), "nowhere")
for flag, value, words in (
    ("--tokens", "1024", "recipe.tokens is 256 in the run and 1024 in this search"),
    ("--seed", "3", "seed is 0 in the run and 3 in this search"),
):
    case(
        f"search-start-from-other{flag}",
        search("--start-from", "{run}", flag, value),
        f"{{run}}: a search cannot start from its networks: {words}",
    )

# -- report and evidence ---------------------------------------------------------------------------

case("report-missing", ["report", "nowhere"], "nowhere")
case("runs-missing", ["runs", "nowhere"], "nowhere")
case(
    "report-damaged",
    ["report", "{tmp}/run"],
    "01.yaml",
    "missed",
    files=[copied("run"), edited("run/pareto/01.yaml", ["missed"], 5)],
)
case(
    "evidence-of-no-width",
    ["evidence", "--evidence", "t.csv"],
    "t.csv:3",
    "params",
    "1,000,000",
    files=[
        write(
            "t.csv",
            "group,source,operators,params,metric,value\n"
            "g,s,12x(a f),350M,val_loss,2.5\ng,s,12x(d f),1M,val_loss,2.4\n",
        )
    ],
)

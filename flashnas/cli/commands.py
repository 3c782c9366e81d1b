"""The commands that flashnas ships: one line of help each, their options, and the function of the API they
call.

Nothing here imports the API; that happens when a command is used.
"""

from __future__ import annotations

from flashnas.cli.command import Command, calling, noting
from flashnas.cli.progress import TrustProgress, counting

SEARCH = Command("find Pareto-optimal architectures within latency budgets",
                 "flashnas.cli.run:SearchCommandOptions", "flashnas.cli.run:search", resumable=True)

WORKER = Command("train candidates of searches with --executor storage",
                 "flashnas.api.worker:WorkerOptions", noting("flashnas.api.worker:worker"),
                 after="its jobs are given back")

ESTIMATE = Command("latency, memory and size of one architecture",
                   "flashnas.api.estimate:EstimateOptions", calling("flashnas.api.estimate:estimate"))

EVIDENCE = Command("published full trainings, and what they say of two mixes",
                   "flashnas.api.evidence:EvidenceOptions", calling("flashnas.api.evidence:evidence"))

PROFILE = Command("measure on this device what a space needs",
                  "flashnas.api.measure:ProfileOptions",
                  calling("flashnas.api.measure:profile", counting("measurements")))

VALIDATE = Command("compare a table's predictions with timed models",
                   "flashnas.api.measure:ValidateOptions",
                   calling("flashnas.api.measure:validate", counting("models timed")))

PROXY_TRUST = Command("say how far short trainings and evidence are to be trusted",
                      "flashnas.api.trust:ProxyTrustOptions",
                      calling("flashnas.api.trust:proxy_trust", TrustProgress, notes=True))

SCALING_LAW = Command("choose depth and width by a law of the loss",
                      "flashnas.api.scaling:ScalingLawOptions",
                      calling("flashnas.api.scaling:scaling_law", TrustProgress))

TRAIN = Command("train one architecture for longer, with checkpoints",
                "flashnas.api.train:TrainOptions", "flashnas.cli.run:train", resumable=True)

EXPORT = Command("write a network for transformers or Nemotron-Flash runtimes",
                 "flashnas.api.train:ExportOptions", calling("flashnas.api.train:export"))

REPORT = Command("write report.html and pareto.png of a run",
                 "flashnas.api.run:ReportOptions", calling("flashnas.api.run:report"))

DASHBOARD = Command("show a run in optuna-dashboard",
                    "flashnas.api.dashboard:DashboardOptions", noting("flashnas.api.dashboard:dashboard"))

RUNS = Command("the runs in a folder, as a table",
               "flashnas.api.runs:RunsOptions", calling("flashnas.api.runs:runs"))

COMPARE = Command("put the fronts of runs over each other",
                  "flashnas.api.compare:CompareOptions", calling("flashnas.api.compare:compare"))

PARETO = Command("the front of finished runs for another budget or device",
                 "flashnas.api.pareto:ParetoOptions", calling("flashnas.api.pareto:pareto"))

TABLE = Command("show, import and merge latency tables", actions={
    "info": Command("what a table can answer and where its rows are from",
                    "flashnas.api.tables:TableInfoOptions", calling("flashnas.api.tables:table_info")),
    "import": Command("turn public measurements into a table",
                      "flashnas.api.tables:ImportTableOptions", calling("flashnas.api.tables:import_table")),
    "merge": Command("rows of two tables of one device in one table",
                     "flashnas.api.tables:MergeTablesOptions", calling("flashnas.api.tables:merge_tables")),
})

BENCH = Command("grow, make and show a table of trained networks", actions={
    "grow": Command("train the networks of a bench, for hours, at low priority",
                    "flashnas.api.bench:GrowBenchOptions",
                    calling("flashnas.api.bench:grow_bench", TrustProgress)),
    "measure": Command("time the networks of a bench at full width on this CPU",
                       "flashnas.api.bench:MeasureBenchOptions",
                       calling("flashnas.api.bench:measure_bench",
                               counting("networks timed"))),
    "build": Command("make the file and the card of a bench of its journals",
                     "flashnas.api.bench:BuildBenchOptions", calling("flashnas.api.bench:build_bench")),
    "info": Command("what a bench holds and how it was trained",
                    "flashnas.api.bench:BenchInfoOptions", calling("flashnas.api.bench:bench_info")),
})

LIST = Command("names that options take: tables, spaces, samplers, ..",
               "flashnas.api.listing:ListOptions", calling("flashnas.api.listing:names"))

DOCTOR = Command("say what runs here, and test every operator",
                 "flashnas.api.doctor:DoctorOptions", "flashnas.cli.run:doctor")

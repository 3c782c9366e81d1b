"""The commands that flashnas ships. The API is imported when one of them is used."""

from __future__ import annotations

from typing import Any

from flashnas.cli.command import Command


def _api(summary: str, function: str, counted: str = "", **more: Any) -> Command:
    """A command that runs a function of flashnas.api."""
    return Command(summary, run=f"flashnas.api.{function}", counted=counted, **more)


SEARCH = Command("find Pareto-optimal architectures within latency budgets",
                 "flashnas.cli.run:SearchCommandOptions", "flashnas.cli.run:search", resumable=True)
WORKER = _api("train candidates of searches with --executor storage", "worker:worker",
              after="its jobs are given back")
ESTIMATE = _api("latency, memory and size of one architecture", "estimate:estimate")
EVIDENCE = _api("published full trainings, and what they say of two mixes", "evidence:evidence")
PROFILE = _api("measure on this device what a space needs", "measure:profile", "measurements")
VALIDATE = _api("compare a table's predictions with timed models", "measure:validate", "models timed")
PROXY_TRUST = _api("say how far short trainings and evidence are to be trusted", "trust:proxy_trust",
                   "trainings")
SCALING_LAW = _api("choose depth and width by a law of the loss", "scaling:scaling_law", "trainings")
TRAIN = Command("train one architecture for longer, with checkpoints",
                "flashnas.api.train:TrainOptions", "flashnas.cli.run:train", resumable=True)
EXPORT = _api("write a network as GGUF or for transformers", "train:export")
EVAL = _api("score a trained network on a text of your own or on tasks", "publish:evaluate",
            "windows scored")
PUSH = _api("upload a trained network to a model hub, with a model card", "publish:push_to_hub")
REPORT = _api("write report.html and pareto.png of a run", "run:report")
DASHBOARD = _api("show a run in optuna-dashboard", "dashboard:dashboard")
RUNS = _api("the runs in a folder, as a table", "runs:runs")
COMPARE = _api("put the fronts of runs over each other", "compare:compare")
PARETO = _api("the front of finished runs for another budget or device", "pareto:pareto")
TABLE = Command("show, import and merge latency tables", actions={
    "info": _api("what a table can answer and where its rows are from", "tables:table_info"),
    "import": _api("turn public measurements into a table", "tables:import_table"),
    "merge": _api("rows of two tables of one device in one table", "tables:merge_tables")})
BENCH = Command("grow, make and show a table of trained networks", actions={
    "grow": _api("train the networks of a bench, for hours, at low priority", "bench:grow_bench",
                 "trainings"),
    "measure": _api("time the networks of a bench at full width on this CPU", "bench:measure_bench",
                    "networks timed"),
    "build": _api("make the file and the card of a bench of its journals", "bench:build_bench"),
    "info": _api("what a bench holds and how it was trained", "bench:bench_info")})
LIST = _api("names that options take: tables, spaces, samplers, ..", "listing:names")
NEW = _api("write a package of your own that adds to flashnas", "new:new")
DOCTOR = _api("say what runs here, and test every operator", "doctor:doctor", "operators tested")

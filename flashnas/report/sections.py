"""The text and tables of report.html. Every value from a run passes through `html.escape`."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

from flashnas.report.front_figure import counts_line
from flashnas.report.notation import compressed
from flashnas.report.palette import INK, SOURCE_MEANING, operator_colour, operator_label, operator_order
from flashnas.report.plot_data import latency_unit
from flashnas.report.table import misses, origin_words
from flashnas.report.text import MISSING, duration, known, number, parameters
from flashnas.search.objectives import task_scores, title_of
from flashnas.study.front import FrontEntry
from flashnas.study.run import Run, rows

SOURCE_COLOURS = {"measured": "#2B2D5B", "imported": "#55578F", "derived": "#ABADD0", "roofline": "#E69F00"}
MAX_FAILURES = 200
BOUND = {"throughput_tok_s": "≥"}


def escaped(value: Any) -> str:
    return html.escape(MISSING if value is None or value == "" else str(value))


# -- header ------------------------------------------------------------------------------------------------------

def header_section(run: Run) -> str:
    """Name, the result in a sentence, and what was asked."""
    facts = "\n".join(f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}<small>{escaped(detail) if detail else ''}"
                      f"</small></dd></div>" for name, value, detail in _facts(run))
    return (f'<h1>{escaped(run.name)}</h1>\n<p class="lead">{escaped(result_sentence(run))}</p>\n'
            f'<dl class="facts">\n{facts}\n</dl>')


def result_sentence(run: Run) -> str:
    """What came out, with the best pure-operator baseline to compare with."""
    if run.trained.empty:
        return f"No network was trained to the end ({counts_line(run)})."
    found = len(run.front)
    start = f"{found} architecture{'s' if found != 1 else ''} on the Pareto front" if found else "No front yet"
    scored = [f for f in run.front if known(f.figures.get("loss")) and known(f.figures.get("latency_ms"))]
    if not scored:
        return f"{start}; {counts_line(run)}."
    factor, unit = latency_unit([f.figures["latency_ms"] or 0.0 for f in scored])
    best = min(scored, key=lambda f: f.figures["loss"] or 0.0)
    text = (f"{start}. The lowest loss is {best.figures['loss']:.3f} nats per token ({best.name},"
            f" {number((best.figures['latency_ms'] or 0) * factor, 4, unit)})")
    if run.baselines.empty:
        return text + "."
    pure = min(rows(run.baselines), key=lambda row: row.loss)
    return (f"{text}; the best pure-operator baseline is {pure.label} with {pure.loss:.3f} at"
            f" {number(pure.latency_ms * factor, 4, unit)}.")


def _facts(run: Run) -> Iterable[tuple[str, Any, str]]:
    entry = run.entry
    workload = [f"{entry('workload', key)} {words}" for key, words in (
        ("batch", "in the batch"), ("prompt_tokens", "tokens in"), ("generated_tokens", "tokens out"), ("dtype", ""))
        if entry("workload", key) is not None]
    yield "Device", entry("table", "device") or entry("table", "name"), " · ".join(
        str(part) for part in (entry("table", "stack"), entry("table", "mode")) if part)
    yield "Workload", entry("workload", "name") or entry("workload"), ", ".join(part.strip() for part in workload)
    budgets = entry("budgets") or {}
    limits = [f"{name} {BOUND.get(name, '≤')} {limit:,g}" for name, limit in budgets.items() if known(limit)]
    yield "Budget", ", ".join(limits) or "none", (
        f"with {run.confidence:.0%} confidence" if run.confidence else "")
    if run.further_objectives or len(run.objectives) != 2:
        yield "Objectives", ", ".join(run.objectives), ""
    yield "Space", entry("space", "name") or entry("space"), ""
    yield "Search", entry("sampler"), f"seed {entry('seed')} · {entry('trials_asked')} networks asked for"
    yield "Trials", counts_line(run).split(" · ")[0], " · ".join(counts_line(run).split(" · ")[1:])
    proxy = [f"width 1/{entry('proxy', 'width_factor')}" if known(entry("proxy", "width_factor")) else "",
             f"{entry('proxy', 'tokens'):,} tokens each" if known(entry("proxy", "tokens")) else ""]
    yield "Short training", _corpus_name(run), " · ".join(filter(None, proxy))
    finished = entry("finished")
    yield "Run time", duration(entry("seconds")), f"finished {finished}" if finished else "not finished"


def _corpus_name(run: Run) -> Any:
    corpus = run.entry("proxy", "corpus")
    if isinstance(corpus, dict):
        return corpus.get("name") or corpus.get("source") or next(iter(corpus.values()), None)
    return corpus


# -- finalists ---------------------------------------------------------------------------------------------------

def finalists_section(run: Run) -> str:
    """The front, fastest first: figures in one row, the operators in the next."""
    if not run.front:
        return '<h2>Finalists</h2>\n<p>The run has no front yet: <code>pareto/</code> holds no architecture.</p>'
    factor, unit = latency_unit([f.figures.get("latency_ms") or 0.0 for f in run.front])
    objectives = tuple(name for name in run.further_objectives if name == "ttft_ms" or task_scores((name,)))
    head = "".join(f'<th class="{css}">{name}<small>{detail}</small></th>' for name, detail, css in (
        ("", "", "text"), *((escaped(title_of(name)), "", "") for name in objectives),
        ("Loss", "nats/token", ""), ("", "bits/byte", ""),
        ("Latency", f"{unit}, lower to upper", ""), ("Per token", "ms", ""), ("Throughput", "tokens/s", ""),
        ("Parameters", "", ""), ("Memory", "GB", ""), ("From", "", "text"), ("File", "", "text")))
    body = "\n".join(_finalist_rows(finalist, factor, objectives) for finalist in run.front)
    timed = any(known(finalist.figures.get("measured_ms")) for finalist in run.front)
    over = "".join(f" {line[0].upper()}{line[1:]}." for line in misses(run)) or " Every one keeps its budgets."
    measured = (f" Measured: the whole model, timed on the device at the end of the search.{escaped(over)}" if timed
                else "")
    kinds = {spec.kind for finalist in run.front for spec in finalist.architecture.operators}
    legend = " ".join(f"{_chip(kind)} {escaped(operator_label(kind).partition(' · ')[2] or kind)}"
                      for kind in sorted(kinds, key=operator_order))
    return f"""<h2>Finalists</h2>
<p>Fastest first. Latencies are predicted from the latency table, with the bounds of the prediction below each; losses
come from short training at proxy scale. Every file is an architecture that the other commands read.{measured}</p>
<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>
{body}
</tbody></table></div>
<p class="note legend">{legend}</p>"""


def _finalist_rows(finalist: FrontEntry, factor: float, objectives: tuple[str, ...]) -> str:
    figures = finalist.figures

    def scaled(name: str) -> str:
        value = figures.get(name)
        return f"{value * factor:.2f}" if known(value) else MISSING

    def fixed(name: str, digits: int) -> str:
        value = figures.get(name)
        return f"{value:.{digits}f}" if known(value) else MISSING

    bounds = ("" if scaled("lower_ms") == scaled("upper_ms") == MISSING
              else f"<small>{scaled('lower_ms')} to {scaled('upper_ms')}</small>")
    bounds += "" if scaled("bound_ms") == MISSING else f"<small>certified {scaled('bound_ms')}</small>"
    bounds += "" if scaled("measured_ms") == MISSING else f"<small>measured {scaled('measured_ms')}</small>"
    if finalist.missed:
        bounds += f"<small><b>misses {escaped(', '.join(finalist.missed))}</b></small>"
    cells = (*(fixed(name, 3) for name in objectives), fixed("loss", 3), fixed("bits_per_byte", 3),
             f"{scaled('latency_ms')}{bounds}", fixed("tpot_ms", 3),
             number(figures.get("throughput_tok_s"), 4), parameters(figures.get("params")), fixed("memory_gb", 2))
    chips = "".join(_chip(spec.kind, str(spec)) for spec in finalist.architecture.operators)
    row = "".join(f"<td>{cell}</td>" for cell in cells)
    return (f'<tr class="figures"><td class="name">{escaped(finalist.name)}</td>{row}'
            f'<td class="text">{escaped(origin_words(finalist))}</td>'
            f'<td class="text"><code>pareto/{escaped(finalist.path.name)}</code></td></tr>\n'
            f'<tr class="architecture"><td></td><td class="text" colspan="{9 + len(objectives)}">'
            f'<div class="chips">{chips}</div>'
            f"<code>{escaped(compressed(finalist.notation))}</code></td></tr>")


def _chip(kind: str, title: str = "") -> str:
    colour = operator_colour(kind)
    red, green, blue = (int(colour[i:i + 2], 16) for i in (1, 3, 5))
    ink = INK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#FFFFFF"
    style = f"background:{colour};color:{ink}"
    return f'<b class="chip" style="{style}" title="{escaped(title or kind)}">{escaped(kind)}</b>'


# -- sources, failures, reproduction -----------------------------------------------------------------------------

def sources_section(run: Run) -> str:
    """How much of each finalist's latency was measured, imported, derived or taken from a roofline."""
    shown = [finalist for finalist in run.front if finalist.sources]
    if not shown:
        return ""
    names = [*(name for name in SOURCE_MEANING if any(name in f.sources for f in shown)),
             *sorted({name for f in shown for name in f.sources} - set(SOURCE_MEANING))]
    head = "".join(f"<th>{escaped(name)}</th>" for name in names)
    lines = []
    for finalist in shown:
        bar = "".join(f'<span style="width:{100 * finalist.sources.get(name, 0):.1f}%;'
                      f'background:{SOURCE_COLOURS.get(name, "#98A2B3")}"></span>' for name in names)
        cells = "".join(f"<td>{100 * finalist.sources.get(name, 0):.1f} %</td>" for name in names)
        lines.append(f'<tr><td class="name">{escaped(finalist.name)}</td>'
                     f'<td class="text"><div class="bar">{bar}</div></td>{cells}</tr>')
    meanings = "; ".join(f"{name}: {SOURCE_MEANING[name]}" for name in names if name in SOURCE_MEANING)
    return f"""<h2>Where the latencies come from</h2>
<p class="note">Share of each predicted latency by the source of its rows. {escaped(meanings)}.</p>
<div class="scroll"><table style="width:auto"><thead><tr><th></th><th></th>{head}</tr></thead><tbody>
{''.join(lines)}</tbody></table></div>"""


def failures_section(run: Run) -> str:
    """Failed trials with their reasons; infeasible ones are counted by reason."""
    failed = run.failed
    outside = run.trials[run.trials["state"] == "infeasible"]
    parts = ["<h2>What failed</h2>"]
    if failed.empty:
        parts.append("<p>No training failed.</p>")
    else:
        lines = "\n".join(
            f'<tr><td>{row.number}</td><td class="text">{escaped(row.reason)}</td>'
            f'<td class="text"><code>{escaped(compressed(row.notation))}</code></td></tr>'
            for row in rows(failed.head(MAX_FAILURES)))
        more = f"<p>{len(failed) - MAX_FAILURES} more in trials.parquet.</p>" if len(failed) > MAX_FAILURES else ""
        parts.append(f"""<div class="scroll"><table><thead><tr><th>Trial</th><th class="text">Reason</th>
<th class="text">Architecture</th></tr></thead><tbody>
{lines}
</tbody></table></div>{more}""")
    for reason, count in outside["reason"].value_counts().items():
        parts.append(f"<p>{count} not trained: {escaped(reason or 'outside the budget')}.</p>")
    return "\n".join(parts)


def reproduce_section(run: Run) -> str:
    """The command, and everything in run.yaml that fixes the result."""
    command = run.entry("command")
    cell = '<td class="text">'
    lines = "\n".join(f"<tr>{cell}{escaped(name)}</td>{cell}<code>{escaped(value)}</code></td></tr>"
                      for name, value in _flat(run.config) if name != "command" and not name.startswith("question."))
    shown = f"<pre>{escaped(command)}</pre>" if command else "<p>run.yaml records no command.</p>"
    return f"""<h2>How to reproduce</h2>
<p>The same command with the same versions draws the same candidates; losses repeat to about four decimals on the same
machine.</p>
{shown}
<details><summary>Everything recorded in run.yaml</summary>
<div class="scroll"><table style="width:auto"><tbody>
{lines}
</tbody></table></div></details>
<footer>Written by flashnas {escaped(run.entry("flashnas"))} from the run folder
<code>{escaped(run.name)}</code>. Figures are read
from its files; nothing was evaluated again.</footer>"""


def _flat(data: Any, prefix: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, MISSING if data is None or data == {} else str(data)

"""What the page, the plots and the table of a run have in common: its networks, their names, counts and
facts, and the templates that are filled with them (`templates`)."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from flashnas.architecture import Architecture
from flashnas.architecture.architecture import compressed, parsed
from flashnas.base import text
from flashnas.base.text import counted, is_number, names_text, number, signed
from flashnas.families.family import PROGRAMS, family_of, interval_of
from flashnas.families.programs import loading
from flashnas.latency.metrics import UPPER_END, Budget
from flashnas.operators.mixture_of_experts.spec import MixtureOfExperts
from flashnas.run_folder.recorded_run import RecordedRun, rows, trial_of
from flashnas.trials.pareto import thinned
from flashnas.trials.trial import RUN, Trial

PUBLISHED = "published"  # label of a published model
LEAST_SILENCE = 0.0005  # nats, from which on they are shown
REASONS = {
    "size": "size",
    "shape": "width against depth",
    "mix": "mix of operators",
    "experts": "experts",
}
FEW_PLACES = 4  # of attention layers, up to which each is named

# -- what a table shows ----------------------------------------------------------------------------


def shown_networks(run: RecordedRun) -> tuple[list[Trial], list[Trial]]:
    """Networks that stand for the front, fastest first, the recommended one among them; and what an
    answer compares it with: the best of each other family, and published models by their names."""
    if run.answer is None:
        return thinned(run.front, run.objectives), []
    answer, chosen = run.answer, recommended(run)
    own = thinned(run.front, run.objectives, keep=[chosen.hash])
    own += [chosen] * (chosen not in run.front)
    recorded = {row.hash: row for row in rows(run.baselines)}
    beside = [
        replace(
            trial_of(row),
            label=family["family"],
            architecture=parsed(row.notation),
            full_loss_difference=family["difference"],
            full_loss_difference_sd=family["sd"],
        )
        for family in (*answer.families, *filter(None, [answer.free_mix]))
        if (row := recorded.get(family["hash"])) and row.hash not in run.finalists
    ]
    for model in answer.published:
        figures: dict[str, Any] = {
            name: model[name] for name in ("latency_ms", "params", "silence")
        }
        beside.append(
            Trial(
                **figures,
                notation=model["name"],
                label=PUBLISHED,
                expected_recall=model["recall"],
                full_loss_difference=model["difference"],
                full_loss_difference_sd=model["sd"],
            )
        )
    return own, beside


def recommended(run: RecordedRun) -> Trial:
    """The network that the answer of a run recommends."""
    assert run.recommended is not None
    return run.recommended


# -- names and units -------------------------------------------------------------------------------


def described(network: Architecture, with_attention: bool = True) -> str:
    """`Granite hybrid, 2560 wide, 18 layers, attention at 4, 10 and 16`; the notation of a network
    that is of no family. with_attention: say where it is."""
    family = family_of(network)
    if family is None:
        return compressed(network.notation)
    mixers = [spec.kind for spec in network.operators if spec.mixes_tokens]
    places = [n for n, kind in enumerate(mixers, 1) if kind == "a"]
    title = family.title
    for spec in network.operators:
        if isinstance(spec, MixtureOfExperts):
            title = title.replace("experts", f"{spec.experts} experts ({spec.active} active)")
            break
        if spec.window_tokens:
            title = title.replace("windows", f"windows of {spec.window_tokens:,}")
            break
    words = f"{title}, {network.hidden} wide, {len(mixers)} layers"
    if not with_attention or len(places) == len(mixers):
        return words
    if len(places) > FEW_PLACES and interval_of(network.operators)[0]:
        return f"{words}, attention at {places[0]}, {places[1]} .. {places[-1]}"
    return f"{words}, attention at {names_text(list(map(str, places)))}"


def shape_of(notation: str, with_attention: bool = True) -> str:
    """In words, where a family has it."""
    network = parsed(notation)
    return compressed(notation) if network is None else described(network, with_attention)


def _loading(network: Any) -> dict[str, str]:
    return loading(network) if isinstance(network, Architecture) else {}


def loads_in(network: Any) -> str:
    """The programs that load a network, in words: those in which one of its family was run by the
    authors, and those whose source was read."""
    family = family_of(network) if isinstance(network, Architecture) else None
    known = {} if family is None else family.programs
    groups: dict[str, list[str]] = {"run here": [], "only read": []}
    for name in _loading(network):
        how, run = "", True  # of a network of llama.cpp alone
        if program := known.get(name):
            how = f" as {program.model_type}" if program.model_type else ""
            how = f" by {program.beta}, beta" if program.beta else how
            run = program.run
        groups["run here" if run else "only read"].append(f"{PROGRAMS[name]}{how}")
    said = "; ".join(f"{how}: {', '.join(names)}" for how, names in groups.items() if names)
    return said or "no program without flashnas (transformers with it: export --to hf)"


def front_loads_in(run: RecordedRun) -> str:
    """`the front loads in all programs`: what holds for the whole front; empty where it differs."""
    found = {loads_short(entry.architecture) for entry in run.front}
    if len(found) != 1:
        return ""
    return f"the front loads in {found.pop().replace('none', 'no program without flashnas')}"


def loads_short(network: Any) -> str:
    """The same in a column: `all programs`, some names, or `none`."""
    programs = _loading(network)
    missing = [title for name, title in PROGRAMS.items() if name not in programs]
    if not missing:
        return "all programs"
    if len(missing) < len(programs):
        return f"all but {', '.join(missing)}"
    return ", ".join(PROGRAMS[name] for name in programs) or "none"


def latency_unit(run: RecordedRun) -> tuple[float, str]:
    """(factor, unit) that shows all milliseconds of a run readably: seconds from 2000 ms on."""
    return (1e-3, "s") if run.scored["latency_ms"].max() >= 2000 else (1.0, "ms")


def time_text(run: RecordedRun, latency_ms: float | None) -> str:
    """`19.61 s`, in the unit of the run."""
    factor, unit = latency_unit(run)
    return number(None if latency_ms is None else latency_ms * factor, 4, unit)


def exceeds(run: RecordedRun, entry: Trial, metric: str = "latency_ms") -> bool:
    """Whether a metric of a network may miss the budget on it: that which was measured, else that of
    one that was timed, else the upper end of the interval of a time."""
    limit, timed = run.budgets.get(metric), run.entry("table", "observed", "timed") or ()
    predicted = metric if entry.hash in timed else UPPER_END.get(metric, metric)
    names = (f"measured_{metric.removeprefix('latency_')}", predicted)
    values = [value for name in names if is_number(value := getattr(entry, name, None))]
    return limit is not None and bool(values) and not Budget(metric, limit).holds(values[0])


def place_words(run: RecordedRun) -> str:
    """`decode-8k on h100_sxm`: the workload and the device, as far as they are known."""
    device = run.entry("table", "device") or run.entry("table", "name")
    return " on ".join(str(part) for part in (run.entry("workload", "name"), device) if part)


# -- parts of sentences ---------------------------------------------------------------------------


def chance(probability: float) -> str:
    """None is 0 or 1."""
    return f"{min(max(probability, 0.01), 0.99):.2f}"


def reasons_text(reasons: Mapping[str, float]) -> str:
    """`by size +0.106, experts -0.137`: parts of a difference that are not 0."""
    parts = [f"{REASONS[n]} {signed(nats)}" for n, nats in reasons.items() if abs(nats) >= 0.0005]
    return f"by {', '.join(parts)}" if parts else ""


# -- counts ----------------------------------------------------------------------------------------


def counts_line(run: RecordedRun) -> str:
    """`24 networks + 6 baselines trained · 90 from earlier runs · 2 failed`."""
    earlier = run.trained["source"] == RUN
    own = run.scored if run.untrained else run.trained[~earlier]
    pure = int((own["origin"] == "baseline").sum())
    baselines = f" + {counted(pure, 'baseline')}" * bool(pure)
    if run.untrained:
        return f"{len(own) - pure} found{baselines} · nothing was trained"
    further = {"from earlier runs": int(earlier.sum()), "failed": len(run.failed)}
    parts = [f"{count} {words}" for words, count in further.items() if count]
    return " · ".join([f"{counted(len(own) - pure, 'network')}{baselines} trained", *parts])


def tokens_words(run: RecordedRun) -> str:
    """`trained 1,572,864 tokens`; empty without a training."""
    tokens = run.entry("totals", "tokens")
    return f"trained {tokens:,.0f} tokens" if is_number(tokens) and tokens else ""


# -- templates -------------------------------------------------------------------------------------


def render(template: str, **values: Any) -> Markup:
    """A template with these values. In HTML, each is escaped unless it is Markup."""
    return Markup(_environment().get_template(template).render(**values))


def render_text(template: str, **values: Any) -> str:
    """A template of a text. A backslash at the end of one of its lines joins the next one to it."""
    written = _environment().get_template(template).render(**values)
    return re.sub(r" *\\\n *", " ", written).rstrip()


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("flashnas.reporting"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "compressed": compressed,
        "counted": text.counted,
        "fixed": text.fixed,
        "loads_in": lambda notation: loads_in(parsed(notation)),
        "number": text.number,
        "parameters": text.parameters,
        "signed": text.signed,
        "tokens": text.tokens_text,
    }
    environment.globals |= {"table": text.table, "with_interval": text.with_interval}
    return environment

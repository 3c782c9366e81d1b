"""What the page, the plots and the table of a run have in common: its networks, their names, counts and
facts, and the templates that are filled with them (`templates`)."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from flashnas.architecture import Architecture
from flashnas.architecture.architecture import compressed, parsed
from flashnas.base import text
from flashnas.base.text import counted, is_number, names_text, number, signed
from flashnas.families.family import PROGRAMS, family_of, interval_of
from flashnas.families.programs import loading
from flashnas.operators.mixture_of_experts.spec import MixtureOfExperts
from flashnas.run_folder.recorded_run import RecordedRun, rows
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


@dataclass(frozen=True)
class Beside:
    """The best of a family or a published model; its fields are those of a trial of the front. name:
    in plots, of a network its notation without the options of the network."""

    name: str
    notation: str
    label: str
    figures: dict[str, Any]
    hash: str = ""
    missed: tuple[str, ...] = ()
    number: int | None = None
    front_number: int | None = None

    @property
    def architecture(self) -> Architecture | None:
        return parsed(self.notation)


Shown = Trial | Beside


def shown_networks(run: RecordedRun) -> list[Shown]:
    """Networks that stand for the front, fastest first; with an answer, the recommended one among
    them, and below them the best of each other family, and the published models."""
    chosen = [] if run.recommended is None else [run.recommended]
    shown: list[Shown] = [
        *thinned(run.front, run.objectives, keep=[entry.hash for entry in chosen])
    ]
    shown += [entry for entry in chosen if entry not in run.front]
    if run.answer is None:
        return shown
    trials = {row.hash: row for row in rows(run.baselines)}
    further = [run.answer.free_mix] if run.answer.free_mix else []
    for family in (*run.answer.families, *further):
        trial = trials.get(family["hash"])
        if trial is not None and family["hash"] not in run.finalists:
            figures = {
                **trial._asdict(),
                "full_loss_difference": family["difference"],
                "full_loss_difference_sd": family["sd"],
            }
            shown.append(Beside(family["family"], trial.notation, trial.label, figures, trial.hash))
    for model in run.answer.published:
        figures = {
            **model,
            "expected_recall": model["recall"],
            "full_loss_difference": model["difference"],
            "full_loss_difference_sd": model["sd"],
        }
        shown.append(Beside(model["name"], model["name"], PUBLISHED, figures))
    return shown


def recommended(run: RecordedRun) -> Trial:
    """The network that the answer of a run recommends."""
    assert run.recommended is not None
    return run.recommended


# -- names and units -------------------------------------------------------------------------------


def head_of(notation: str) -> tuple[str, str]:
    """(`2560`, `(meta=256)`): the width of a network and its options."""
    width, bracket, options = notation.partition(":")[0].partition("(")
    return width, bracket + options


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
    distance = interval_of(network.operators)[0]
    if len(places) > FEW_PLACES and distance:
        return f"{words}, attention at {places[0]}, {places[1]} .. {places[-1]}"
    return f"{words}, attention at {names_text(list(map(str, places)))}"


def shape_of(notation: str, with_attention: bool = True) -> str:
    """In words, where a family has it."""
    network = parsed(notation)
    return compressed(notation) if network is None else described(network, with_attention)


def loads_in(network: Any) -> str:
    """The programs that load a network, in words: those in which one of its family was run by the
    authors, and those whose source was read."""
    programs = loading(network) if isinstance(network, Architecture) else {}
    if not programs:
        return "no program without flashnas (transformers with it: export --to hf)"
    family = family_of(network)
    known = {} if family is None else family.programs
    groups: dict[str, list[str]] = {"run here": [], "only read": []}
    for name in programs:
        program = known.get(name)
        how = ""
        if program is not None and program.beta:
            how = f" by {program.beta}, beta"
        elif program is not None and program.model_type:
            how = f" as {program.model_type}"
        run = program is None or program.run
        groups["run here" if run else "only read"].append(f"{PROGRAMS[name]}{how}")
    return "; ".join(f"{how}: {', '.join(names)}" for how, names in groups.items() if names)


def front_loads_in(run: RecordedRun) -> str:
    """`the front loads in all programs`: what holds for the whole front; empty where it differs."""
    found = {loads_short(entry.architecture) for entry in run.front}
    if len(found) != 1:
        return ""
    (programs,) = found
    return f"the front loads in {'no program without flashnas' if programs == 'none' else programs}"


def loads_short(network: Any) -> str:
    """The same in a column: `all programs`, some names, or `none`."""
    programs = loading(network) if isinstance(network, Architecture) else {}
    if len(programs) == len(PROGRAMS):
        return "all programs"
    missing = [PROGRAMS[name] for name in PROGRAMS if name not in programs]
    if programs and len(missing) < len(programs):
        return f"all but {', '.join(missing)}"
    return ", ".join(PROGRAMS[name] for name in programs) or "none"


def numbered(entry: Any) -> str:
    """`trial 17`; `network 17` of one that was not trained."""
    return f"{'network' if entry.state == 'expected' else 'trial'} {entry.number}"


def latency_unit(run: RecordedRun) -> tuple[float, str]:
    """(factor, unit) that shows all milliseconds of a run readably: seconds from 2000 ms on."""
    return (1e-3, "s") if run.scored["latency_ms"].max() >= 2000 else (1.0, "ms")


def time_text(run: RecordedRun, latency_ms: float | None) -> str:
    """`19.61 s`, in the unit of the run."""
    factor, unit = latency_unit(run)
    return number(None if latency_ms is None else latency_ms * factor, 4, unit)


def exceeds(run: RecordedRun, entry: Shown) -> bool:
    """Whether its latency may be above the budget: that which was measured, else the time of one that
    was timed, else the upper end of the interval."""
    observed = run.entry("table", "observed")
    timed = observed.get("timed") if isinstance(observed, dict) else None
    names = ("measured_ms", "latency_ms" if entry.hash in (timed or ()) else "upper_ms")
    values = [value for name in names if is_number(value := entry.figures.get(name))]
    return run.budget_ms is not None and bool(values) and values[0] > run.budget_ms


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
    parts = [
        f"{REASONS[n]} {signed(value)}" for n, value in reasons.items() if abs(value) >= 0.0005
    ]
    return f"by {', '.join(parts)}" if parts else ""


# -- counts ----------------------------------------------------------------------------------------


def counts_line(run: RecordedRun) -> str:
    """`24 networks + 6 baselines trained · 90 from earlier runs · 2 failed`."""
    counts, sources = run.counts(), run.trained["source"]
    own = run.scored if run.untrained else run.trained[sources != RUN]
    pure = int((own["origin"] == "baseline").sum())
    baselines = f" + {counted(pure, 'baseline')}" * bool(pure)
    if run.untrained:
        return f"{len(own) - pure} found{baselines} · nothing was trained"
    further = {
        "from earlier runs": int((sources == RUN).sum()),
        "failed": counts["failed"],
    }
    parts = [f"{count} {words}" for words, count in further.items() if count]
    return " · ".join([f"{counted(len(own) - pure, 'network')}{baselines} trained", *parts])


def tokens_words(run: RecordedRun) -> str:
    """`trained 1,572,864 tokens`; empty without a training."""
    tokens = run.entry("totals", "tokens")
    return f"trained {tokens:,.0f} tokens" if is_number(tokens) and tokens else ""


def misses(run: RecordedRun) -> list[str]:
    """One line that names the finalists that miss a budget as measured."""
    over = [f"{entry.name} ({', '.join(entry.missed)})" for entry in run.front if entry.missed]
    words = f"over the budget as measured: {', '.join(over)}"
    if run.answer is not None and recommended(run).missed:
        words += f"; {recommended(run).name} is recommended by its predicted times"
    return [words] if over else []


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

"""An estimate for people: figures with bounds, where the time goes, and which sources the number rests on."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from flashnas.report.folding import compressed


def estimate_text(architecture: Any, estimate: Any, table: Any, workload: Any) -> str:
    """Several lines; `estimate` as LatencyModel gives it (its `to_dict()` is all that is read)."""
    facts = estimate.to_dict()
    lines = [
        compressed(architecture.notation),
        f"{facts['params'] / 1e9:.3f}B parameters, hash {architecture.hash}",
        f"{table.name} ({table.stack}), workload {workload.name}: batch {facts.get('batch', workload.batch)},"
        f" {workload.prompt_tokens} tokens in, {workload.generated_tokens} out",
        "",
        f"latency_ms        {facts['latency_ms']:>12,.1f}   between {facts['lower_ms']:,.1f} and"
        f" {facts['upper_ms']:,.1f}",
        f"ttft_ms           {facts['ttft_ms']:>12,.3f}{_between(facts, 'ttft_ms', 3)}",
        f"tpot_ms           {facts['tpot_ms']:>12,.4f}{_between(facts, 'tpot_ms', 4)}",
        f"throughput_tok_s  {facts['throughput_tok_s']:>12,.1f}{_between(facts, 'throughput_tok_s', 1)}",
        f"memory_gb         {facts['memory_gb']:>12,.2f}",
        *(f"note: {note}" for note in facts.get("notes", ())),
        "",
    ]
    shares: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for part in facts["breakdown"]:
        total = shares[(part["operator"], part["source"])]
        total[0] += part["ms"]
        total[1] += part["share"]
    width = max((len(name) for name, _ in shares), default=8)
    lines += [f"{'operator':<{width}}  {'source':<9} {'ms':>12}  share"]
    lines += [f"{name:<{width}}  {source:<9} {ms:>12,.1f}  {share:6.1%}"
              for (name, source), (ms, share) in sorted(shares.items(), key=lambda entry: -entry[1][0])]
    sources = ", ".join(f"{name} {share:.1%}" for name, share in facts["sources"].items())
    return "\n".join([*lines, "", f"sources: {sources}"])


def _between(facts: dict[str, Any], figure: str, digits: int) -> str:
    lower, upper = facts.get("bounds", {}).get(figure, (0.0, 0.0))
    return f"   between {lower:,.{digits}f} and {upper:,.{digits}f}" if upper else ""

"""What `estimate` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashnas.architecture.folding import compressed
from flashnas.base.text import INTERVAL_90, tokens_text

if TYPE_CHECKING:
    from flashnas.architecture import Architecture
    from flashnas.evidence.expected import Expected
    from flashnas.latency.metrics import Estimate
    from flashnas.latency.prediction import LatencyModel
    from flashnas.latency.workload import Workload


def estimate_text(
    architecture: Architecture,
    estimate: Estimate,
    full: Expected,
    model: LatencyModel,
    workload: Workload,
) -> str:
    """Several lines: what was estimated, the metrics with their bounds, time by operator and
    source, the sources."""
    lines = [
        compressed(architecture.notation),
        f"{estimate.params / 1e9:.3f}B parameters, hash {architecture.hash}",
        f"{model.table.name} ({model.table.stack}), {model.calibration.text}",
        f"workload {workload.name}: batch {estimate.batch},"
        f" {workload.prompt_tokens} tokens in, {workload.generated_tokens} out",
        "",
    ]
    for metric, digits in (
        ("latency_ms", 1),
        ("ttft_ms", 3),
        ("tpot_ms", 4),
        ("throughput_tok_s", 1),
    ):
        lower, upper = estimate.bounds[metric]  # 0 of the time to the first token without a prompt
        between = f"   {lower:,.{digits}f} to {upper:,.{digits}f}" if upper else ""
        between += (
            f" ({100 * estimate.interval:.0f} % interval)" if between and len(lines) == 5 else ""
        )
        lines.append(f"{metric:16}  {estimate.metric(metric):>12,.{digits}f}{between}")
    lines += [
        f"memory_gb         {estimate.memory_gb:>12,.2f}",
        *(f"note: {note}" for note in estimate.notes),
        "",
        f"full_loss         {full.full_loss:>12,.3f}   nats per token after"
        f" {tokens_text(full.train_tokens)}"
        " tokens, up to a constant of the text",
        f"                  {full.full_loss_difference:>+12,.3f}   ± {INTERVAL_90 * full.full_loss_sd:.3f}"
        " (90 %) to the plain transformer of as many parameters",
        f"recall            {full.recall:>+12,.3f}   ± {INTERVAL_90 * full.recall_sd:.3f} of full"
        " marks, to the same",
        *(f"note: outside the published trainings: {words}" for words in full.outside),
        "",
    ]
    times = [
        (name, source, ms)
        for name, by_source in estimate.operators_ms().items()
        for source, ms in by_source.items()
    ]
    width = max((len(name) for name, *_ in times), default=8)
    lines += [f"{'operator':<{width}}  {'source':<9} {'ms':>12}  share"]
    lines += [
        f"{name:<{width}}  {source:<9} {ms:>12,.1f}  {ms / estimate.latency_ms:6.1%}"
        for name, source, ms in sorted(times, key=lambda entry: -entry[2])
    ]
    sources = ", ".join(f"{name} {share:.1%}" for name, share in estimate.sources.items())
    return "\n".join([*lines, "", f"sources: {sources}"])

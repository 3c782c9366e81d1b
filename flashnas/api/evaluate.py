"""What a trained network is worth on a text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from flashnas.api.calling import Result, silent, takes
from flashnas.base.settings import REQUIRED, Settings, option
from flashnas.base.text import from_hub


@dataclass(frozen=True, kw_only=True)
class EvalOptions(Settings, where="eval"):
    gone: ClassVar[dict[str, str]] = {
        **dict.fromkeys(
            ("tasks", "task_path"),
            "export with --to hf, and run python -m flashnas.exporting.lm_eval (docs/serving.md)",
        ),
        "stride": "a window moves by half of its tokens",
    }
    model: str = option(
        REQUIRED,
        "folder of flashnas train or of flashnas export --to hf, or a run whose chosen network was"
        " trained",
        positional=True,
        yaml=False,
    )
    text: str = option(
        REQUIRED,
        "score this text in bits per byte: a file or folder, as --data of train",
        connects=from_hub,
    )
    window: int | None = option(
        None,
        "tokens of the text that the network sees at once",
        shown="length of the training's sequences, 1024 where it is not recorded",
        min=1,
        max=1 << 24,
    )
    device: str = option("cpu", "cpu or cuda", choices=("cpu", "cuda"))


@dataclass(frozen=True)
class EvaluationResult(Result):
    """What a model is worth.

    score: of the text (name, bits_per_byte, nats_per_token, tokens, bytes, window).
    file: the written eval.json.
    """

    score: dict[str, Any]
    file: str
    warnings: tuple[str, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        of = f"{self.score['bytes']:,} bytes, windows of {self.score['window']:,} tokens"
        return (
            f"{self.score['name']}: bits_per_byte {self.score['bits_per_byte']:.4f} ({of})\n"
            f"results {self.file}"
        )


@takes(EvalOptions)
def evaluate(
    options: EvalOptions, *, progress: Callable[[int, int], None] = silent
) -> EvaluationResult:
    """Score a trained network on a text of one's own, in bits per byte.

    They are -sum log2 p(token | tokens before it) / UTF-8 bytes of the text, in float32.
    Each document is scored on its own, behind the token that
    separates documents. Every token is predicted once: the first `window` tokens from all before
    them, then half as many at a time, each from at least the other half before it. Not
    counted: the end of a document, and where no token separates documents, the first token of each
    with its bytes. Meta tokens precede each window. The text of a special token, such as
    <|endoftext|>, counts as that token.

    The results are written to eval.json beside the weights. The report of a run shows those of
    networks in its folder `trained`.

    Further:
        progress (Callable): called with what is done and with all that is to do.

    Returns:
        An EvaluationResult: `score` of the text, and `file`.

    Raises:
        ConfigError: for a wrong option.
        WeightsError, RunError: the model cannot be read, or the run's network has not been trained.
        CorpusError: the text or the tokenizer cannot be read.

    Example:
        >>> import flashnas as fn
        >>> recipe = fn.Recipe(width_factor=1, vocab=300, sequence_tokens=32, tokens=256,
        ...                    validation_tokens=64, curve_tokens=32, dtype="float32")
        >>> trained = fn.train("32(vocab=300): d(head_dim=16) f", recipe=recipe, data="my_texts",
        ...                    out="my_training")
        >>> found = fn.evaluate("my_training", text="my_texts/00.txt")
        >>> 0 < found.score["bits_per_byte"] < 9, found.score["window"], found.file
        (True, 32, 'my_training/final/eval.json')
    """
    from flashnas.exporting.evaluate import (
        DEFAULT_WINDOW,
        bits_per_byte,
        load_trained,
        write_results,
    )
    from flashnas.run_folder.recorded_run import EVALUATION

    source = load_trained(options.model, options.device)
    window = options.window or source.sequence_tokens or DEFAULT_WINDOW
    text = bits_per_byte(source, options.text, window, progress)
    write_results(source, text)
    warning = (
        f"the tokenizer changes or drops text of {text.lossy} of {text.documents} documents: the"
        " figure is of what it keeps"
    )
    return EvaluationResult(
        score=asdict(text),
        file=f"{source.folder}/{EVALUATION}",
        warnings=(warning,) if text.lossy else (),
    )

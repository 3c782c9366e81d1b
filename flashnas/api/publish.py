"""A trained network and the world: what it is worth on texts and tasks, and its upload to a model hub."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashnas.api.calling import takes
from flashnas.api.output import Figures
from flashnas.api.train import targets
from flashnas.base.settings import REQUIRED, Settings, option

MODEL = "folder of flashnas train or of flashnas export, or a run whose chosen network was trained"


@dataclass(frozen=True, kw_only=True)
class EvalOptions(Settings, where="eval"):
    """What `flashnas eval` takes."""

    model: str = option(REQUIRED, MODEL + "; an export must be one --to hf", positional=True)
    text: str | None = option(
        None, "score this text in bits per byte: a file or folder, as --data of flashnas train")
    tasks: tuple[str, ...] = option(
        (), "tasks of lm-evaluation-harness, as in arc_easy,piqa", metavar="TASKS", separator=",")
    task_path: Path | None = option(
        None, "folder of task files of your own, which may run Python code", metavar="DIR")
    num_fewshot: int | None = option(
        None, "examples in front of each question of a task", metavar="N", shown="as the task says", min=0,
        max=1000)
    limit: int | None = option(
        None, "questions of each task", metavar="N", shown="all", min=1, max=1_000_000_000)
    window: int | None = option(
        None, "tokens of the text that the network sees at once", metavar="N",
        shown="length of the training's sequences, 1024 where it is not recorded", min=1, max=1 << 24)
    stride: int | None = option(
        None, "tokens by which a window moves, at most --window", metavar="N", shown="half of the window",
        min=1, max=1 << 24)
    batch: int = option(8, "windows or requests in one pass", metavar="N", min=1, max=65_536)
    tokenizer: str | None = option(
        None, "tokenizer.json to use", metavar="FILE", shown="that of the trained weights")
    device: str = option("cpu", "cpu or cuda", choices=("cpu", "cuda"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text is None and not self.tasks:
            self.wrong("text", "or tasks must be given: there is nothing to evaluate on")
        if self.task_path is not None and not self.task_path.is_dir():
            self.wrong("task_path", f"must be a folder of task files; got {str(self.task_path)!r}")
        if self.window is not None and self.stride is not None and self.stride > self.window:
            self.wrong("stride", f"must be at most window ({self.window}); got {self.stride}")


@takes(EvalOptions)
def evaluate(options: EvalOptions, *, progress: Callable[[int, int], None] | None = None) -> Figures:
    """Score a trained network on a text of one's own, in bits per byte, and on tasks of
    lm-evaluation-harness.

    Bits per byte are -sum log2 p(token | tokens before it), divided by the UTF-8 bytes of the text. Each
    document stands behind the token that separates documents, and its end is not counted. A window moves by
    `stride` tokens, so that each token is predicted once, from at least `window - stride` tokens before it,
    or from all there are. Nothing is downloaded for it. The results are written to eval.json beside the
    weights; the report of a run shows those of networks in its folder `trained`.

    Further:
        progress (Callable): called with windows of the text that are done, and all of them.

    Returns:
        Figures: `score` (bits_per_byte, nats_per_token, tokens, bytes, documents, window, stride; or None),
        `tasks` (metrics, samples and shots by name), `model` and `file`, the written eval.json.

    Raises:
        ConfigError: for a wrong option, or a task that cannot be run.
        WeightsError, RunError: the model cannot be read, or the run's network has not been trained.
        CorpusError: the text or the tokenizer cannot be read.

    Example:
        >>> import flashnas as fn
        >>> recipe = fn.Recipe(width_factor=1, vocab=300, sequence_tokens=32, tokens=256,
        ...                    validation_tokens=64, curve_tokens=32, dtype="float32")
        >>> trained = fn.train("32(vocab=300): d(head_dim=16) f", recipe=recipe, data="my_texts",
        ...                    out="my_training")
        >>> found = fn.evaluate("my_training", text="my_texts/00.txt")
        >>> 0 < found.score["bits_per_byte"] < 8, found.score["window"], found.file
        (True, 32, 'my_training/final/eval.json')
    """
    from flashnas.data.corpus import read_corpus
    from flashnas.export.evaluate import DEFAULT_WINDOW, bits_per_byte, load_trained, run_tasks, write_results

    source = load_trained(options.model, tokenizer=options.tokenizer, device=options.device)
    text: dict[str, Any] | None = None
    warnings = []
    if options.text is not None:
        window = options.window or source.sequence_tokens or DEFAULT_WINDOW
        stride = options.stride or max(1, window // 2)
        if stride > window:
            options.wrong("stride", f"must be at most window ({window}); got {stride}")
        text = {"name": Path(options.text).name, "window": window, "stride": stride, **bits_per_byte(
            source, read_corpus(options.text).documents, window=window, stride=stride, batch=options.batch,
            progress=progress or (lambda done, total: None))}
        if text["lossy"]:
            warnings.append(f"the tokenizer changes or drops text of {text['lossy']} of {text['documents']}"
                            " documents: the figure is of what it keeps")
    tasks = run_tasks(source, options.tasks, folder=options.task_path, shots=options.num_fewshot,
                      limit=options.limit, batch=options.batch) if options.tasks else {}
    file = write_results(source, text, tasks)
    return Figures({"model": options.model, "score": text, "tasks": tasks, "file": str(file)}, _evaluated,
                   tuple(warnings))


def _evaluated(found: dict[str, Any]) -> str:
    lines = []
    if text := found["score"]:
        lines.append(f"{text['name']}: {text['bits_per_byte']:.4f} bits per byte,"
                     f" {text['nats_per_token']:.4f} nats per token ({text['bytes']:,} bytes,"
                     f" {text['tokens']:,} tokens, {text['documents']:,} documents; windows of"
                     f" {text['window']:,} tokens, stride {text['stride']:,})")
    lines += [f"{name}: {metric} {value:.4f}"
              + (f" ± {task['errors'][metric]:.4f}" if metric in task["errors"] else "")
              + f" ({task['samples']:,} samples, {task['shots']} shots)"
              for name, task in found["tasks"].items() for metric, value in task["metrics"].items()]
    return "\n".join([*lines, f"results {found['file']}"])


@dataclass(frozen=True, kw_only=True)
class PushOptions(Settings, where="push"):
    """What `flashnas push` takes."""

    model: str = option(REQUIRED, MODEL, positional=True)
    repo: str = option(REQUIRED, "repository of the hub, such as USER/NAME", positional=True)
    to: str = option("hf", "format of trained weights, as flashnas export has it; an export is uploaded as"
                     " it is", metavar="TARGET", choices=targets)
    license: str | None = option(
        None, "licence of the weights by the hub's name for it, such as apache-2.0", metavar="NAME",
        shown="that of the card, if it names one")
    private: bool = option(False, "make a repository that only you see")
    revision: str | None = option(
        None, "branch to upload to, which is made if it is missing", metavar="BRANCH", shown="main")
    dry_run: bool = option(False, "show what would be uploaded, and upload nothing", yaml=False)


@takes(PushOptions)
def push_to_hub(options: PushOptions) -> Figures:
    """Upload a trained network to a model hub, in one commit, with a model card.

    Trained weights are exported first, into a folder that is removed afterwards. The card is README.md of the
    export: architecture, latency with its source, losses, data and seed as the training and its run recorded
    them, and the results of `flashnas eval`. Of paths, only the last part is written to it. The token is
    that of `hf auth login` or HF_TOKEN; HF_ENDPOINT names another hub. Links are not followed.

    Returns:
        Figures: `repo`, `url` of the commit (None for a dry run), `files` with their bytes, and `card`.

    Raises:
        ExportError: no export or no token, a wrong name, the hub refuses or cannot be reached.
        WeightsError, RunError: the model cannot be read, or the run's network has not been trained.

    Example:
        >>> import flashnas as fn
        >>> found = fn.export("32(vocab=300): d(head_dim=16) f", to="hf", init_seed=0, out="my_export")
        >>> pushed = fn.push_to_hub("my_export", "me/tiny", license="apache-2.0", dry_run=True)
        >>> sorted(pushed.files), pushed.url
        (['README.md', 'config.json', 'generation_config.json', 'model.safetensors'], None)
    """
    from flashnas.export.hub import push_model

    return Figures(push_model(options.model, options.repo, target=options.to, licence=options.license,
                              private=options.private, revision=options.revision, dry_run=options.dry_run),
                   _pushed)


def _pushed(found: dict[str, Any]) -> str:
    header = found["card"].partition("\n---\n")[0].removeprefix("---\n")
    return "\n".join([
        *(f"{size:>13,}  {name}" for name, size in found["files"].items()), "header of README.md:",
        *(f"    {line}" for line in header.splitlines()),
        *(f"note: {note}" for note in found["notes"]),
        f"{found['repo']}: nothing was uploaded (--dry-run)" if found["url"] is None else found["url"]])

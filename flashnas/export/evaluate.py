"""What a trained network is worth: bits per byte of a text, and tasks of lm-evaluation-harness."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tokenizers import Encoding

from flashnas.base.errors import ConfigError, CorpusError, DeviceError, WeightsError
from flashnas.base.files import disk_errors
from flashnas.base.hints import first_line, one_of
from flashnas.data.tokenizer import end_of_document_id
from flashnas.export.source import Source, fast_tokenizer, load_source, quiet_transformers
from flashnas.network.weights import MODEL, digest_of
from flashnas.runs.trained import EVALUATION, Evaluation

DEFAULT_WINDOW = 1024     # tokens, where the length of the training's sequences is not recorded
MAX_TASK_TOKENS = 2048    # of a request of a task; the harness cuts longer ones on the left, as for other models
Progress = Callable[[int, int], None]


def load_trained(model: str, *, tokenizer: str | None, device: str) -> Source:
    """A trained network with its tokenizer, in float32 on a device.

    Raises:
        ConfigError: it is not a folder of weights that are read back, or there is no such device.
        WeightsError: it has no tokenizer.
    """
    if not Path(model).is_dir():
        raise ConfigError(f"{model}: no such folder; name one of flashnas train, an export or a run")
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError("--device cuda: torch finds no CUDA device")
    source = load_source(model, tokenizer=tokenizer)
    if source.tokenizer is None:
        raise WeightsError(f"{model}: has no tokenizer, so that it cannot read a text; name one with --tokenizer")
    source.network.float().to(device)
    return source


def write_results(source: Source, text: Mapping[str, Any] | None, tasks: Mapping[str, Any]) -> Path:
    """Add results to eval.json beside the weights, and drop those of other weights; returns the file."""
    assert source.folder is not None  # of load_trained
    digest, before = digest_of(source.folder / MODEL), Evaluation.read(source.folder)
    if before is None or before.weights_sha256 != digest:
        before = Evaluation(weights_sha256=digest)
    texts = {} if text is None else {text["sha256"]: dict(text)}
    path = source.folder / EVALUATION
    with disk_errors(f"{path}: the results cannot be written", WeightsError):
        dataclasses.replace(before, texts={**before.texts, **texts},
                            tasks={**before.tasks, **tasks}).write(source.folder)
    return path


@torch.no_grad()
def bits_per_byte(source: Source, documents: Iterable[str], *, window: int, stride: int, batch: int,
                  progress: Progress = lambda done, total: None) -> dict[str, Any]:
    """Score a text: -sum log2 p(token | tokens before it) / UTF-8 bytes of the text.

    Each document is scored on its own, behind the token that separates documents. Every token is predicted
    once: the first `window` tokens from all before them, then `stride` tokens at a time, each of them from at
    least `window - stride` and less than `window` tokens before it.

    Not counted: the end of a document, as a token and as bytes; and the first token of each document with its
    bytes, if the tokenizer has no token that separates documents. Meta tokens precede each window; they are
    not predicted. The text of a special token, such as <|endoftext|>, counts as that token.

    Args:
        source: of load_trained.
        documents: the text.
        window: tokens that the network sees at once.
        stride: tokens by which a window moves, at most `window`.
        batch: windows in one pass.
        progress: called with windows done and all.

    Returns:
        bits_per_byte, nats_per_token, tokens, bytes, documents, the sha256 of the text, and `lossy`: documents
        of which the tokenizer drops or changes text, so that the figure is of less than the text.

    Raises:
        CorpusError: the text has no token to predict.
    """
    network, tokenizer = source.network, source.tokenizer
    assert tokenizer is not None  # of load_trained
    device, end = network.embedding.weight.device, end_of_document_id(tokenizer)
    pieces: list[tuple[Sequence[int], int]] = []
    digest = hashlib.sha256()
    tokens = size = count = lossy = 0
    for count, text in enumerate(documents, start=1):
        encoding = tokenizer.encode(text, add_special_tokens=False)
        ids = encoding.ids if end is None else [end, *encoding.ids]
        pieces += windows(ids, window, stride)
        tokens += max(0, len(ids) - 1)
        size += len(text.encode()) if end is not None else _bytes_after_first(text, encoding)
        digest.update(hashlib.sha256(text.encode()).digest())
        lossy += tokenizer.decode(encoding.ids, skip_special_tokens=False) != text
    if not tokens:
        raise CorpusError("the text has no token to predict")
    nats = 0.0
    for begin in range(0, len(pieces), batch):
        part = pieces[begin:begin + batch]
        longest = max(len(ids) for ids, _ in part)
        padded_BT = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids, _ in part], device=device)
        targets_BT = torch.tensor([[-100] * first + [*ids[first:]] + [-100] * (longest - len(ids))
                                   for ids, first in part], device=device)
        scored = sum(len(ids) - first for ids, first in part)
        nats += float(network.loss(padded_BT[:, :-1], targets_BT[:, 1:])) * scored
        progress(begin + len(part), len(pieces))
    return {"bits_per_byte": nats / (size * math.log(2)), "nats_per_token": nats / tokens, "tokens": tokens,
            "bytes": size, "documents": count, "lossy": lossy,
            "sha256": digest.hexdigest()}


def windows(ids: Sequence[int], window: int, stride: int) -> Iterator[tuple[Sequence[int], int]]:
    """(tokens, place of the first that is predicted) of each window: at most `window` tokens are read, and
    each token but the first of all is predicted once."""
    done = 1
    while done < len(ids):
        end = min(len(ids), done + (window if done == 1 else stride))
        first = max(0, end - 1 - window)
        yield ids[first:end], done - first
        done = end


def _bytes_after_first(text: str, encoding: Encoding) -> int:
    """UTF-8 bytes behind the first token."""
    return len(text[encoding.offsets[0][1]:].encode()) if encoding.ids else 0


def run_tasks(source: Source, names: Sequence[str], *, folder: Path | None, shots: int | None,
              limit: int | None, batch: int) -> dict[str, dict[str, Any]]:
    """Run tasks of lm-evaluation-harness.

    The harness computes them by its own class for models of transformers, on the network as `flashnas export
    --to hf` writes it, in float32.

    Args:
        source: of load_trained; its network is not to be used afterwards.
        names: tasks, groups or tags.
        folder: of task files of the user's, which may run Python code; None: those of the harness alone.
        shots: examples in front of each question; None: as the task says.
        limit: questions of each task; None: all.
        batch: requests in one pass.

    Returns:
        Task -> metrics, samples, shots and the version of the harness.

    Raises:
        ConfigError: the harness is not installed, does not have the task, or cannot run it.
    """
    if source.tokenizer is None or end_of_document_id(source.tokenizer) is None:
        raise WeightsError("tasks need a tokenizer with a token that separates documents; name one with"
                           " --tokenizer")
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        from flashnas.export.transformers.write import as_transformers
    except ImportError as error:
        raise ConfigError(f"tasks need lm-evaluation-harness ({first_line(error)}):"
                          " pip install 'flashnas[eval]'") from None
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    tasks = TaskManager(include_path=folder, include_defaults=False) if folder else TaskManager()
    if folder and not set(names) <= {*tasks.all_tasks}:
        tasks = TaskManager(include_path=folder)  # its index of some 10,000 tasks takes 20 s
    for name in names:
        if name not in tasks.all_tasks:
            raise ConfigError(one_of("task", name, tasks.all_tasks) if len(tasks.all_tasks) < 20 else
                              f"task {name!r} is neither one of the harness nor one of --task-path")
    with quiet_transformers():
        model = HFLM(pretrained=as_transformers(source, torch.float32), backend="causal", batch_size=batch,
                     tokenizer=fast_tokenizer(source.tokenizer), max_length=MAX_TASK_TOKENS)
        try:
            results = lm_eval.simple_evaluate(model, tasks=[*names], task_manager=tasks, num_fewshot=shots,
                                              limit=limit, log_samples=False, bootstrap_iters=1000)
        except Exception as error:  # the harness and its data sets raise anything
            raise ConfigError(f"tasks {', '.join(names)} cannot be run: {type(error).__name__}:"
                              f" {first_line(error)}") from error
    return {name: {**_metrics(values), "samples": int(results["n-samples"][name]["effective"]),
                   "shots": int(results["n-shot"].get(name, 0)), "lm_eval": version("lm_eval")}
            for name, values in results["results"].items() if name in results["n-samples"]}


def _metrics(values: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Metrics and their standard errors by name; the harness writes `acc,none` and `acc_stderr,none`."""
    found: dict[str, dict[str, float]] = {"metrics": {}, "errors": {}}
    for key, value in values.items():
        name, comma, chosen = key.partition(",")
        if comma and isinstance(value, int | float) and math.isfinite(value):
            label = name.removesuffix("_stderr") + (f" ({chosen})" if chosen != "none" else "")
            found["errors" if name.endswith("_stderr") else "metrics"][label] = float(value)
    return found

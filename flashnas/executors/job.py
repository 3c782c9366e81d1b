"""Job: one evaluation as it is sent to a worker process. Importing this module does not import
torch.
"""

from __future__ import annotations

import inspect
import math
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flashnas.base.errors import CandidateError
from flashnas.base.system import keep_memory, limit_threads
from flashnas.latency.metrics import METRICS

UserEvaluator = Callable[..., "float | Mapping[str, float]"]  # as `flashnas.search` describes it


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker needs to score one network.

    dataset: a prepared folder (flashnas.data.dataset). evaluator: scores the network in place of a
    training. needed: what it must return besides `loss`.
    """

    architecture: Any
    dataset: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    evaluator: UserEvaluator | None = None
    needed: tuple[str, ...] = ()

    def portable(self) -> bool:
        """True if a fresh process can run it: all its objects are importable, and none is of the
        main script."""
        if self.evaluator is None:
            return True
        try:
            data = pickle.dumps(self)
        except Exception:
            # pickle raises PicklingError, AttributeError or TypeError by kind of object
            return False
        return b"__main__" not in data


def run_job(job: Job) -> dict[str, Any]:
    """The score of a job that runs in this process: `loss`, `seconds` and, of a training, the other
    fields of `ProxyScore`; `scores` and `metrics` are mappings. Raises CandidateError if there is
    none."""
    if job.evaluator is None:
        return _train(job)
    started = time.perf_counter()
    seed = {"seed": job.seed} if takes_seed(job.evaluator) else {}
    score = _score(job.evaluator(job.architecture, **seed), job.needed)
    return {**score, "seconds": time.perf_counter() - started}


def _train(job: Job) -> dict[str, Any]:
    """The score of a training on one thread, or on one GPU."""
    limit_threads(1)
    keep_memory()
    from flashnas.data.dataset import Dataset
    from flashnas.training.recipe import Recipe
    from flashnas.training.trainer import train

    recipe = Recipe.from_dict(job.recipe)
    dataset = Dataset.open(job.dataset)
    proxy = recipe.proxy_of(job.architecture, dataset.vocab)
    return train(proxy, dataset, recipe, job.seed).to_dict()


def takes_seed(evaluator: UserEvaluator) -> bool:
    try:
        parameter = inspect.signature(evaluator).parameters.get("seed")
    except (TypeError, ValueError):  # of some built-in objects
        return False
    kinds = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    return parameter is not None and parameter.kind in kinds


def _score(result: Any, needed: tuple[str, ...]) -> dict[str, Any]:
    """What an evaluator returned as loss, scores and metrics; raises CandidateError for a wrong
    value.
    """
    values = dict(result) if isinstance(result, Mapping) else {"loss": result}
    numbers = {str(name): _number(str(name), value) for name, value in values.items()}
    for name in ("loss", *needed):
        if name not in numbers:
            raise CandidateError(
                f"the evaluator must return {name!r}; got {', '.join(numbers) or 'nothing'}"
            )
    loss = numbers.pop("loss")
    return {
        "loss": loss,
        "source": "evaluator",
        "metrics": {name: value for name, value in numbers.items() if name in METRICS},
        "scores": {name: value for name, value in numbers.items() if name not in METRICS},
    }


def _number(name: str, value: Any) -> float:
    try:
        if isinstance(value, str):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise CandidateError(
            f"the evaluator must return numbers; got {name} = {value!r:.80}"
        ) from None
    if not math.isfinite(number):
        raise CandidateError(f"{name} became {number}")
    return number

"""What a worker process runs for one candidate. Importing this module does not import torch."""

from __future__ import annotations

import time
from typing import Any

from flashnas.base.process import keep_memory, limit_threads


def run_candidate(job: dict[str, Any]) -> dict[str, Any]:
    """Train one candidate on one thread.

    Args:
        job: plain data that any pool can carry: `architecture` (`Architecture.to_dict()` at full width), `dataset` (a
            prepared folder), `recipe` (`Recipe.to_dict()`) and `seed`. Optional: `deadline_s`, the limit of each
            training, and `tasks`, the names of the scores of synthetic tasks that are computed besides the loss.

    Returns:
        `ProxyScore.to_dict()`; with `tasks` also `scores`, and `seconds` then includes their trainings.

    Raises:
        CandidateError: with the reason in one line, if the candidate fails.
        FlashnasError: of another class, for a wrong job.
    """
    single_thread()
    keep_memory()
    from flashnas.architecture import Architecture
    from flashnas.data.dataset import Dataset
    from flashnas.training.recipe import Recipe
    from flashnas.training.trainer import train

    recipe = Recipe.from_dict(job["recipe"])
    dataset = Dataset.open(job["dataset"])
    proxy = recipe.proxy_of(Architecture.from_dict(job["architecture"]), dataset.vocab)
    score = train(proxy, dataset, recipe, job["seed"], deadline_s=job.get("deadline_s")).to_dict()
    if not job.get("tasks"):
        return score
    from flashnas.proxy.tasks.score import task_scores

    started = time.perf_counter()
    scores = task_scores(Architecture.from_dict(job["architecture"]), job["tasks"], recipe, job["seed"],
                         deadline_s=job.get("deadline_s"))
    return {**score, "scores": scores, "seconds": score["seconds"] + time.perf_counter() - started}


def single_thread() -> None:
    """One thread for every numerical library: candidates run in parallel, and one thread gives reproducible bits."""
    limit_threads(1)
    import torch

    torch.set_num_threads(1)

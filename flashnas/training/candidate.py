"""What a worker process runs for one candidate. Importing this module does not import torch."""

from __future__ import annotations

from typing import Any

from flashnas.base.system import keep_memory, limit_threads


def run_candidate(job: dict[str, Any]) -> dict[str, Any]:
    """Train one candidate on one thread, or on one GPU.

    Args:
        job: plain data: `architecture` (`Architecture.to_dict()` at full width), `dataset` (a
            prepared folder), `recipe` (`Recipe.to_dict()`) and `seed`. Optional: `deadline_s`, the
            limit of the training.

    Returns:
        `ProxyScore.to_dict()`.

    Raises:
        CandidateError: with the reason in one line, if the candidate fails.
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
    return train(proxy, dataset, recipe, job["seed"], deadline_s=job.get("deadline_s")).to_dict()


def single_thread() -> None:
    """One thread for every numerical library: candidates run in parallel, and one thread gives
    reproducible bits."""
    limit_threads(1)
    import torch

    torch.set_num_threads(1)

"""What a worker process runs for one candidate. Importing this module does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flashnas.base.system import keep_memory, limit_threads

if TYPE_CHECKING:
    from flashnas.training.distributed import Ranks


def run_candidate(job: dict[str, Any]) -> dict[str, Any]:
    """Train one candidate on one thread, or by several processes.

    Args:
        job: plain data: `architecture` (`Architecture.to_dict()` at full width), `dataset` (a
            prepared folder), `recipe` (`Recipe.to_dict()`) and `seed`. Optional: `deadline_s`, the
            limit of the training; `processes`, if more than one train it together.

    Returns:
        `ProxyScore.to_dict()`.

    Raises:
        CandidateError: with the reason in one line, if the candidate fails.
    """
    if job.get("processes", 1) > 1:
        from flashnas.training.together import train_together

        return train_together(job)
    return train_candidate(job)


def train_candidate(job: dict[str, Any], ranks: Ranks | None = None) -> dict[str, Any]:
    """`run_candidate` in this process, which may be one of several."""
    single_thread()
    keep_memory()
    from flashnas.architecture import Architecture
    from flashnas.data.dataset import Dataset
    from flashnas.training.recipe import Recipe
    from flashnas.training.trainer import train

    recipe = Recipe.from_dict(job["recipe"])
    dataset = Dataset.open(job["dataset"])
    proxy = recipe.proxy_of(Architecture.from_dict(job["architecture"]), dataset.vocab)
    return train(
        proxy, dataset, recipe, job["seed"], deadline_s=job.get("deadline_s"), ranks=ranks
    ).to_dict()


def single_thread() -> None:
    """One thread for every numerical library: candidates run in parallel, and one thread gives
    reproducible bits."""
    limit_threads(1)
    import torch

    torch.set_num_threads(1)

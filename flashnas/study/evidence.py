"""The models of published trainings, as a search loads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.evidence.full_loss import FullLoss
from flashnas.evidence.load import digest, digests, fitted, full_loss
from flashnas.evidence.recall import RecallModel, load_recall
from flashnas.study.config import SearchConfig
from flashnas.study.evidence_search import pure_stacks
from flashnas.study.foresight import Foresight, silence
from flashnas.training.recipe import Recipe


def recipe_read(recipe: Recipe | None) -> Recipe | None:
    """The recipe, if short losses under it were held against publications; else None."""
    return recipe if recipe is not None and recipe.digest == fitted()["recipe"] else None


def load_models(own: str | None) -> tuple[FullLoss, RecallModel, dict[str, Any]]:
    """The models, with the user's own trainings where there are any, and what they rest on; raises
    ConfigError where the file of own trainings is wrong."""
    source: dict[str, Any] = {"shipped": digests()}
    model = full_loss(own)
    if own is not None:
        source["own"] = {"path": own, "sha256": digest(Path(own))}
    return model, load_recall(), source


def foresight_of(config: SearchConfig, space: Any, fitter: Any, recipe: Recipe | None,
                 note: Callable[[str], None]) -> Foresight:
    """The models of a search, and the network to which its standard deviations are taken.

    note receives a line where short trainings say nothing to the model, and where own trainings contradict.
    recipe: None: nothing is trained.

    Raises:
        ConfigError: the file of own trainings is wrong.
    """
    model, recall, source = load_models(config.evidence)
    if config.evidence is not None:
        from flashnas.evidence.publications import contradiction  # loads what the model itself does not need

        if words := contradiction(config.evidence):
            note(words)
    tokens = config.planned_tokens

    def value_of(networks: Sequence[Architecture]) -> np.ndarray:
        return np.asarray(model.predict_networks(networks, tokens).mean + silence(model, networks, tokens))

    stacks = [network for _, network in pure_stacks(space, fitter, value_of)]
    if not stacks:
        fastest = fitter.fastest(config.seed)
        assert fastest is not None, "metrics are known wherever the full loss ranks"
        stacks = [fastest[0]]
    reference = stacks[int(np.argmin(value_of(stacks)))]
    read = recipe_read(recipe)
    if recipe is not None and read is None:
        note(f"the loss of recipe {recipe.name!r} with these settings was not held against published"
             " trainings: the full loss rests on them alone; --rank-by short ranks by the trainings")
    return Foresight(model, recall, tokens, reference, read, source)

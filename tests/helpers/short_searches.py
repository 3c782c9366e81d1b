"""For the notebooks, which import it: searches look at few candidates, texts are a tenth as long, and
each network is timed once.
"""

import dataclasses
import functools
import importlib

import pytest
from problems import with_few_candidates

from flashnas.data import dataset
from flashnas.profiling import timing
from flashnas.training.recipe import Recipe

PROFILE = importlib.import_module("flashnas.profiling.profile")
LOAD, READ = Recipe.load, dataset.read_corpus


def load(name):
    return dataclasses.replace(LOAD(name), validation_tokens=2048, curve_tokens=512)


def read_corpus(source):
    corpus = READ(source)
    return dataclasses.replace(corpus, documents=list(corpus.documents)[::10])


patch = pytest.MonkeyPatch()
with_few_candidates(patch)
patch.setattr(Recipe, "load", load)
patch.setattr(dataset, "read_corpus", read_corpus)
patch.setattr(PROFILE, "profile", functools.partial(PROFILE.profile, rounds=1))
patch.setattr(timing, "LEAST", 1)
patch.setattr(timing, "MOST", 1)

"""For the notebooks, which import it: searches look at few candidates, and texts are a tenth as
long.
"""

import dataclasses

import pytest
from problems import with_few_candidates

from flashnas.data import dataset
from flashnas.training.recipe import Recipe

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

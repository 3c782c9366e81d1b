import pytest
from problems import with_few_candidates

import flashnas as fn


@pytest.fixture(scope="session")
def searched(tmp_path_factory, small_corpus, quick_recipe):
    """A finished run of the tiny space, searched through the API."""
    out = tmp_path_factory.mktemp("searched") / "run"
    with pytest.MonkeyPatch.context() as patch:
        with_few_candidates(patch)  # what a module sets comes after what a session has
        return fn.search(
            space="tiny",
            workload="chat",
            recipe=str(quick_recipe),
            data=small_corpus,
            trials=5,
            evidence="none",
            baselines=False,
            workers=1,
            measure=False,
            out=out,
        ).path

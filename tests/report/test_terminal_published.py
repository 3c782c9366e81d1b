"""`flashnas proxy-trust --published` on the terminal: all wrong pairs by name."""

import dataclasses

import numpy as np

from flashnas.evidence.agreement import measure, pairs_of
from flashnas.evidence.trainings import groups_of, read_published
from flashnas.report.terminal_trust import published_text

GROUPS = {*list(groups_of(read_published()))[:6]}
NONE = {"pairs": 0, "right": 0, "share": None, "rmse_nats": None, "coverage": None, "groups": []}
MODELS = dict.fromkeys(("short", "law", "evidence", "full"), NONE)
FACTS = {"recipe": {"name": "cpu"}, "trainings": 55, "failed": 0, "core_seconds": 60.0, "core_seconds_each": 2.0,
         "models": MODELS, "models_common": MODELS}


def test_every_wrong_pair_is_named_under_the_network_that_should_be_behind():
    rows = [row for row in read_published() if row.group in GROUPS]
    opposed = dataclasses.replace(measure(rows, -np.array([row.nats for row in rows])), facts=FACTS)
    text = published_text(opposed.to_dict())
    for name, places in groups_of(rows).items():
        wrong = [pair for pair in pairs_of(rows, np.zeros(len(rows)), [places]) if pair.clear]
        if not wrong:
            assert name not in text
            continue
        title = f"ordered wrongly in {name} ({len(wrong)} pair{'s' if len(wrong) > 1 else ''}):\n"
        lines = text.partition(title)[2].partition("\n\n")[0].split("\n")
        found, behind = set(), ""
        for line in lines:
            if line.endswith(" should be behind"):
                behind = line.strip().removesuffix(" should be behind")
            else:
                found.add((line.strip(), behind))
        assert found == {tuple(rows[place].operators for place in pair.order) for pair in wrong}

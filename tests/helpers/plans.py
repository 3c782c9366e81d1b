from unittest import mock

from flashnas.study import plan as module


def plan(config, *, timed=False, note=lambda _: None, **objects):
    """The plan of a search; timed: with a training in a worker process, which takes seconds."""
    with mock.patch.object(module, "timed", module.timed if timed else lambda *_: (None, 1.0)):
        return module.plan(config, note=note, **objects)

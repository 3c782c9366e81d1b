"""A search in a process of its own, to be killed: `fault_driver.py OUT WORKERS [URL]`. Continues what OUT holds."""

import sys
from pathlib import Path

from slow_space import NamedSpace, loss_and_latency

from flashnas.study.config import SearchConfig
from flashnas.study.search import run_search


class Lines:
    def note(self, text):
        print(text, flush=True)

    def update(self, snapshot):
        pass


def question(workers, url=None, **more):
    asked = {"table": None, "trials": 16, "cycle_size": 4, "workers": workers, "seed": 5, **more}
    if url:
        asked |= {"executor": "storage", "storage": url, "executor_options": {"stale_s": 3.0}}
    return SearchConfig(**asked)


def run(out, workers, url=None, **more):
    run_search(question(workers, url, **more), Path(out), resume=True, progress=Lines(), evaluator=loss_and_latency,
               space=NamedSpace())


if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])

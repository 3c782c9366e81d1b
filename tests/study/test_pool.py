import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flashnas.study.pool import WorkerPool

sys.path.insert(0, str(Path(__file__).parents[1] / 'helpers'))
import pool_jobs


@pytest.fixture(scope="module", autouse=True)
def importable_in_workers():
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parents[1] / 'helpers'), before)))
    yield
    os.environ["PYTHONPATH"] = before


def test_failures_are_outcomes_and_the_others_go_on():
    jobs = {name: {"do": name} for name in ("fail", "bug", "memory", "die", "hang")}
    jobs |= {str(value): {"do": "return", "value": value} for value in range(4)}
    with WorkerPool(pool_jobs.act, workers=2, timeout_s=4) as pool:
        outcomes = {key: (result, reason) for key, result, reason in pool.run(jobs)}
    assert {key: outcomes[key][0]["value"] for key in "0123"} == {str(v): v for v in range(4)}
    reasons = {key: reason for key, (result, reason) in outcomes.items() if result is None}
    assert reasons == {"fail": "loss became NaN at step 3", "bug": "ValueError: boom", "memory": "out of memory",
                       "die": "worker died (SIGKILL, out of memory?)", "hang": "time limit of 4 s exceeded"}


def test_workers_die_with_a_killed_parent(tmp_path):
    path = tmp_path / "pids"
    script = (f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1] / 'helpers')!r})\n"
              "import pool_jobs; from flashnas.study.pool import WorkerPool\n"
              "if __name__ == '__main__':\n"
              "    with WorkerPool(pool_jobs.act, workers=2, timeout_s=60) as pool:\n"
              f"        list(pool.run({{i: {{'do': 'touch', 'path': {str(path)!r}}} for i in '01'}}))\n")
    file = tmp_path / "parent.py"
    file.write_text(script)
    parent = subprocess.Popen([sys.executable, str(file)])
    deadline = time.monotonic() + 30
    while (not path.exists() or len(path.read_text().split()) < 2) and time.monotonic() < deadline:
        time.sleep(0.05)
    pids = [int(pid) for pid in path.read_text().split()]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(pids) == 2
    assert not any(alive(pid) for pid in pids)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False

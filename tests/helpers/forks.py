"""Processes that are forked from one that has imported everything once: torch alone takes seconds
in a fresh process.

`fork_workers` lets searches and the self-test take their worker processes from there. Tests of how
a search starts its processes use the fixture `spawned_workers`, which leaves that to the search.
All processes of a test session, and those that were forked, fork from the same one: its address is
in their environment.
"""

import functools
import importlib
import multiprocessing
import os
import sys
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from types import SimpleNamespace

from fresh import python_path

FORKS = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
if sys.platform == "linux":
    FORKS.set_forkserver_preload(["preloaded"])
ADDRESS = "FLASHNAS_TEST_FORKS"
# before anything imports numpy: of small matrices, threads that wait for each other take ten times
# as long on a busy machine
os.environ.setdefault("OMP_NUM_THREADS", "1")


@functools.cache
def ready():
    """Start the process that others are forked from, if there is none. Python 3.11 does not give it
    sys.path, but the environment.
    """
    if sys.platform != "linux":
        return
    server = forkserver._forkserver
    if ADDRESS in os.environ:
        server._forkserver_address = os.environ[ADDRESS]
        if server._forkserver_alive_fd is None:
            server._forkserver_alive_fd = os.pipe()[1]  # the one that started it keeps it alive
        server.ensure_running = resource_tracker.ensure_running
        return
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = python_path(Path(__file__).parent)
    forkserver.ensure_running()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
    os.environ[ADDRESS] = server._forkserver_address


def start(function, *arguments, name=None):
    """The process. It has the environment of now, which the process that it is forked from does not
    have.
    """
    ready()
    process = FORKS.Process(
        target=_in_environment, name=name, args=(dict(os.environ), function, arguments)
    )
    process.start()
    return process


def _in_environment(environment, function, arguments):
    if sys.platform == "linux":
        importlib.import_module(
            "preloaded"
        )  # which the process that it is forked from leaves out after an error
    os.environ.clear()
    os.environ.update(environment)
    function(*arguments)


def fork_workers(patch):
    """Local executors and the self-test fork their worker processes, until `patch` is undone."""
    if sys.platform == "linux":
        from flashnas.executors import local
        from flashnas.testing import self_test

        def process(target, name, args):
            ready()
            return FORKS.Process(
                target=_in_environment, name=name, args=(dict(os.environ), _serve, (target, *args))
            )

        patch.setattr(
            local,
            "multiprocessing",
            SimpleNamespace(
                get_context=lambda _: SimpleNamespace(Pipe=FORKS.Pipe, Process=process)
            ),
        )
        patch.setattr(
            self_test, "multiprocessing", SimpleNamespace(get_context=lambda _: ready() or FORKS)
        )


def _serve(target, pipe, parent, *rest):
    """A worker process; the parent that it watches is the process that it is forked from, which
    ends with the tests.
    """
    target(pipe, os.getppid(), *rest)

"""Threads of the numerical libraries, and signals."""

import os
import signal
import subprocess
import sys

import pytest

from flashnas.base.system import (
    THREAD_VARIABLES,
    limit_threads,
    terminate_as_interrupt,
    uninterrupted,
)


@pytest.mark.parametrize(
    ("keep", "expected"), [(False, ["3", "3", "3", "3"]), (True, ["8", "3", "3", "3"])]
)
def test_a_limit_reaches_every_library_and_may_keep_what_the_user_set(monkeypatch, keep, expected):
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    limit_threads(3, keep=keep)
    assert [os.environ[name] for name in THREAD_VARIABLES] == expected


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_malloc_settings_are_taken_in_a_process_of_their_own():
    code = "from flashnas.base.system import keep_memory; print(keep_memory())"
    printed = subprocess.check_output([sys.executable, "-c", code], text=True).strip()
    assert printed == str("glibc" in os.confstr("CS_GNU_LIBC_VERSION"))


@pytest.mark.parametrize("block", [uninterrupted, terminate_as_interrupt])
def test_an_interrupt_while_handlers_are_set_leaves_the_ones_that_were_there(monkeypatch, block):
    numbers, really = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP), signal.signal
    before = [signal.getsignal(number) for number in numbers]

    def set_and_interrupt(number, handler):
        really(number, handler)
        monkeypatch.setattr(signal, "signal", really)
        raise KeyboardInterrupt

    monkeypatch.setattr(signal, "signal", set_and_interrupt)
    with pytest.raises(KeyboardInterrupt), block():
        pass
    after = [signal.getsignal(number) for number in numbers]
    for number, handler in zip(numbers, before, strict=True):
        really(number, handler)
    assert after == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupt_waits_for_the_end_of_a_write(number):
    done = []

    def write():
        with terminate_as_interrupt():
            with uninterrupted():
                os.kill(os.getpid(), number)
                done.append("written")
            done.append("never reached")

    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            write()
    finally:
        signal.signal(signal.SIGINT, before)
    assert done == ["written"]

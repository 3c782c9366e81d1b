"""The clock of a search, driven by made-up times of its trainings: what it says after the first
tenth.
"""

import dataclasses
import heapq
import itertools
import math

import numpy as np
import pytest

from flashnas.study.training_time import Clock, TrainingPlan

MAX_ERROR = 0.25  # of the total, from the first tenth on


def simulated(plan, jobs):
    """What the clock says of the total at each completion, as (time, total) pairs, and the total in
    the end.

    jobs: expected and real seconds: baselines first, then candidates, in cycles.
    """
    now, said, done = [0.0], [], []
    clock = Clock(plan, lambda: now[0])
    first = len(plan.baselines)
    cycles = [
        list(range(first)),
        *(
            list(range(start, min(start + plan.cycle, len(jobs))))
            for start in range(first, len(jobs), plan.cycle)
        ),
    ]
    ended = np.zeros(len(jobs), bool)
    for number, cycle in enumerate(cycles):
        waiting, running = list(cycle), []
        while waiting or running:
            while waiting and len(running) < plan.workers:
                place = waiting.pop(0)
                heapq.heappush(running, (now[0] + jobs[place][1], place))
            now[0], place = heapq.heappop(running)
            ended[place] = True
            done.append(tuple(jobs[place]))
            drawn = sum(map(len, cycles[: number + 1]))
            clock.update(
                done=done,
                drawn=[jobs[each][0] for each in range(drawn) if not ended[each]],
                candidates=len(jobs) - drawn,
            )
            said.append((now[0], now[0] + clock.remaining_s))
    return said, now[0]


def test_with_even_trainings_the_total_is_never_off_by_more_than_a_quarter():
    """A machine of another pace than is assumed."""
    for workers, pace in itertools.product((1, 2, 4), (0.2, 3.0)):
        rng = np.random.default_rng(workers)
        expected = rng.uniform(20, 60, 29)
        jobs = np.column_stack([expected, expected * pace * rng.uniform(0.9, 1.1, 29)])
        plan = TrainingPlan(
            baselines=list(expected[:5]),
            candidates=24,
            candidate_s=40.0,
            cycle=8,
            workers=workers,
            tokens=1,
        )
        said, total = simulated(plan, jobs)
        off = max(abs(told / total - 1) for gone, told in said if gone >= total / 10)
        assert off <= MAX_ERROR, (workers, pace, off)


def test_trainings_that_tell_how_far_they_are_set_the_pace_before_one_has_ended():
    plan = TrainingPlan(baselines=[10.0, 10.0], candidates=8, candidate_s=10.0, workers=2, tokens=1)
    clock = Clock(plan, lambda: 0.0)
    begun = [(1.0, 3.0), (2.0, 6.0)]
    clock.update(done=begun, drawn=[9.0, 8.0], candidates=8)
    assert (clock.pace, clock.share_done) == (3, 0.03)
    assert clock.remaining_s == pytest.approx(3 * 97 / 2)


def test_the_clock_runs_down_between_completions():
    now = [0.0]
    plan = TrainingPlan(
        baselines=[10.0], candidates=8, candidate_s=10.0, cycle=4, workers=2, tokens=64
    )
    clock = Clock(plan, lambda: now[0])
    waits = 3 * 0.36 * math.log(2) * 10  # the baselines and two cycles
    assert clock.remaining_s == pytest.approx(1.25 * ((10 + 8 * 10) / 2 + waits))
    assert str(clock).startswith(
        "plan: 9 trainings of 64 tokens, 1 baselines and 8 candidates: about 576 tokens;"
    )
    clock.update(done=[(10.0, 20.0)], drawn=[], candidates=8)
    now[0] = 0
    clock.start(answer_s=0)
    before = clock.remaining_s
    now[0] = 7
    assert clock.remaining_s == pytest.approx(before - 7)
    now[0] = 1e6  # a training that does not end
    assert clock.remaining_s == pytest.approx(before - 0.95 * 20)
    clock.update(done=[(10.0, 20.0)] * 9, drawn=[], candidates=0)
    assert (clock.remaining_s, clock.share_done) == (0, 1)
    clock.start(answer_s=5)
    assert clock.remaining_s == 5
    now[0] += 2
    assert clock.remaining_s == 3
    own = Clock(dataclasses.replace(plan, tokens=0), lambda: 0.0)
    assert own.remaining_s is None  # nobody knows how long an evaluator takes

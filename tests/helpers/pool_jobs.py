"""Jobs for the worker pool, importable from a fresh process."""

import os
import signal
import time

from flashnas.base.errors import CandidateError


def act(job):
    match job["do"]:
        case "return":
            return {"value": job["value"], "pid": os.getpid()}
        case "fail":
            raise CandidateError("loss became NaN at step 3")
        case "bug":
            raise ValueError("boom\nsecond line")
        case "memory":
            raise MemoryError
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            time.sleep(60)
        case "touch":
            with open(job["path"], "a") as file:
                file.write(f"{os.getpid()}\n")
            time.sleep(60)

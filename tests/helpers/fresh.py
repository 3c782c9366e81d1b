"""A new interpreter, in which nothing is loaded."""

import os
import subprocess
import sys


def printed(script):
    """The lines that it prints."""
    child = subprocess.run(
        [sys.executable, "-c", f"import sys; {script}"], capture_output=True, text=True, check=True
    )
    return child.stdout.splitlines()


def python_path(*folders):
    """PYTHONPATH with these folders in front."""
    before = os.environ.get("PYTHONPATH")
    return os.pathsep.join(map(str, [*folders, *([before] if before else [])]))

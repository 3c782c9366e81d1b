"""A new interpreter, in which nothing is loaded."""

import subprocess
import sys


def printed(script):
    """The lines that it prints."""
    child = subprocess.run(
        [sys.executable, "-c", f"import sys; {script}"], capture_output=True, text=True, check=True
    )
    return child.stdout.splitlines()

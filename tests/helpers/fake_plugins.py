"""Packages with entry points that are not installed: folders on sys.path with a dist-info folder,
as pip makes it.
"""

import os
import subprocess
import sys

from fresh import python_path


def write_plugin(
    folder,
    package,
    entry_points,
    modules=None,
):
    """Write a package into `folder`, which the caller puts on sys.path or PYTHONPATH; returns
    `folder`.

    Args:
        folder: where site-packages would be.
        package: name of the distribution, such as "flashnas-short-conv".
        entry_points: group -> name -> "module:object".
        modules: file name -> source of its modules.
    """
    info = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "\n".join(
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in names.items())
            for group, names in entry_points.items()
        )
    )
    for name, source in (modules or {}).items():
        (folder / name).write_text(source)
    return folder


def run_with(folder, statement):
    """What another process prints that finds the packages in `folder`, as if they were
    installed.
    """
    done = subprocess.run(
        [sys.executable, "-c", statement],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": python_path(folder)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()

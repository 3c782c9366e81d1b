"""Stand-ins for the GPU libraries, a file for each: their signatures, layouts, dtypes and demands,
by plain loops on any device.

Written from the documentation and argument checks of the versions that each file names. They hold
what our adapters assume; that the libraries keep to it is for tests/gpu. Their parameters are those
of the libraries, in signatures.yaml: each call of a stand-in binds to them, and
tests/operators/test_library_signatures.py compares them with fla's source.
"""

import dataclasses
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

from fake_libraries import fla, flash_attn, mamba_ssm  # noqa: F401
from fake_libraries.shared import MODULES
from flashnas.operators.backends import core as backends

PACKAGES = ("fla", "mamba_ssm", "selective_scan_cuda", "flash_attn")


def install(monkeypatch, *packages, devices=("cuda",)):
    """Put the stand-ins of these packages (all, if none is named) where the libraries would be;
    hide the others.

    devices: where our adapters may call them.
    """
    for name in PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)
    for path, contents in MODULES.items():
        if path.split(".")[0] in (packages or PACKAGES):
            module = ModuleType(path)
            module.__spec__ = ModuleSpec(path, None)
            vars(module).update(contents)
            monkeypatch.setitem(sys.modules, path, module)
    for name, library in backends.LIBRARIES.items():
        devices_then = tuple(dict.fromkeys((*library.devices, *devices)))
        distribution = f"fake-{name}"  # without metadata: __version__ counts
        monkeypatch.setitem(
            backends.LIBRARIES,
            name,
            dataclasses.replace(library, devices=devices_then, distribution=distribution),
        )

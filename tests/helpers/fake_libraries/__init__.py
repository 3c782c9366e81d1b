"""Stand-ins for the GPU libraries, a file for each: their signatures, layouts, dtypes and demands, by plain loops on
any device.

Written from the documentation and argument checks of the versions that each file names. They hold what our adapters
assume; that the libraries keep to it is for tests/gpu. Their parameters are those of the libraries:
tests/operators/test_library_signatures.py compares them.
"""

from __future__ import annotations

import dataclasses
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

from fake_libraries import causal_conv1d, fla, flash_attn, mamba_ssm
from flashnas.operators.backends import core as backends

MODULES = {**fla.MODULES, **mamba_ssm.MODULES, **causal_conv1d.MODULES, **flash_attn.MODULES}


def install(monkeypatch: pytest.MonkeyPatch, *packages: str, devices: tuple[str, ...] = ("cuda",)) -> None:
    """Put the stand-ins of these packages (all but flash-attn 3, if none is named) where the libraries would
    be; hide the others.

    devices: where our adapters may call them.
    """
    names = packages or ("fla", "mamba_ssm", "selective_scan_cuda", "causal_conv1d", "flash_attn")
    for name in ("fla", "mamba_ssm", "selective_scan_cuda", "causal_conv1d", "flash_attn",
                 "flash_attn_interface"):
        monkeypatch.setitem(sys.modules, name, None)
    for path, contents in MODULES.items():
        if path.split(".")[0] in names:
            module = ModuleType(path)
            module.__spec__ = ModuleSpec(path, None)
            vars(module).update(contents)
            monkeypatch.setitem(sys.modules, path, module)
    for name, place in backends.LIBRARIES.shipped.items():
        library = backends.LIBRARIES[name]
        devices_then = tuple(dict.fromkeys((*library.devices, *devices)))
        distribution = "torch" if name == "sdpa" else f"fake-{name}"  # without metadata: __version__ counts
        monkeypatch.setattr(sys.modules[place.partition(":")[0]], "LIBRARY",
                            dataclasses.replace(library, devices=devices_then, distribution=distribution))

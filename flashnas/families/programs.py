"""Which programs load a network without flashnas, by its family and by what GGUF files hold."""

import functools

from flashnas.architecture import Architecture
from flashnas.families.family import PROGRAMS, families


@functools.lru_cache(maxsize=4096)
def loading(architecture: Architecture) -> dict[str, str]:
    """The programs that load a network, in the order of PROGRAMS, each with the `--to` of `flashnas
    export` that writes it. A network of no family may still be one of llama.cpp's."""
    found = set[str]()
    for family in families().values():
        if family.holds(architecture):
            found |= set(family.loading(architecture))
        if family.gguf is not None and family.gguf_format.holds(architecture):
            found.add("llama.cpp")
    return {name: "gguf" if name == "llama.cpp" else "hf" for name in PROGRAMS if name in found}

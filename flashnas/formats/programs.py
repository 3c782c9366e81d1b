"""The formats that the exporters write, each with the programs that run it without flashnas."""

from flashnas.formats import lfm2, nemotron_h
from flashnas.formats.gguf.families import FAMILIES

FORMATS = (*(family.format for family in FAMILIES.values()), nemotron_h.FORMAT, lfm2.FORMAT)

"""flashnas: latency-aware neural architecture search for hybrid small language models."""

__version__ = "0.1.0"

"""vLLM, which runs in a Python environment of its own: what it reads, and how long it takes."""

"""The choices of a backend; what they mean stands in layers/backends. No torch."""

BACKENDS = ("auto", "torch", "fla", "mamba-ssm", "flash-attn", "sdpa")

"""The choices of a backend; core.py explains them. No torch."""

BACKENDS = ("auto", "torch", "fla", "mamba-ssm", "flash-attn")

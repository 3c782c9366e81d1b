"""A search over GPT-2 style models with flashnas: a space, an evaluator and a latency of one's
own.
"""

"""What the process loads that the tests' processes are forked from: see forks.py."""

import fault_driver  # noqa: F401
import pytest  # noqa: F401  (test modules, whose evaluators run in workers, import it)
import torch._dynamo  # noqa: F401  (the first optimizer imports it)
from numba.core.registry import cpu_target

import flashnas.api
import flashnas.proxy.worker
import flashnas.testing.self_test  # noqa: F401
from flashnas.operators.compiled import (  # noqa: F401
    convolution,
    cross_entropy,
    decays,
    delta_kernels,
    delta_rule,
    linear_attention,
    norms,
    selective_scan,
    steps,
)

# what Numba does before it loads its first kernel
cpu_target.typing_context.refresh()
cpu_target.target_context.refresh()

"""What the process loads that the tests' processes are forked from: see forks.py."""

import fault_driver  # noqa: F401
import torch._dynamo  # noqa: F401  (the first optimizer imports it)

import flashnas.api
import flashnas.testing.self_test
import flashnas.training.trainer  # noqa: F401

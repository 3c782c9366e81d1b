"""What the stand-ins demand of all libraries' arguments."""

import functools
import inspect
from pathlib import Path

import torch
import yaml

HALF = (torch.bfloat16, torch.float16)
SIGNATURES = {
    name: inspect.signature(eval(f"lambda {parameters}: None"))
    for name, parameters in yaml.safe_load(
        Path(__file__).with_name("signatures.yaml").read_text()
    ).items()
}
MODULES = {
    **{name: {"__version__": "0.0-fake"} for name in ("fla", "mamba_ssm", "flash_attn")},
    "selective_scan_cuda": {},
}


def stand_in(module):
    """Puts a function into the module of a library, with the parameters that it has there. Those
    that the stand-in does not compute must be left out."""

    def placed(function):
        signature = SIGNATURES[f"{module}.{function.__name__}"]
        own = inspect.signature(function).parameters

        @functools.wraps(function)
        def call(*arguments, **named):
            bound = signature.bind(*arguments, **named)
            for name in bound.arguments.keys() - own.keys():
                assert bound.arguments[name] == signature.parameters[name].default, name
            bound.apply_defaults()
            return function(**{name: bound.arguments[name] for name in own})

        MODULES[module] = {**MODULES.get(module, {}), function.__name__: call}
        return call

    return placed


def same_dtype(*tensors):
    assert len({tensor.dtype for tensor in tensors}) == 1, [tensor.dtype for tensor in tensors]
    return tensors[0].dtype


def start(state, *shape, dtype=torch.float32):
    """The given state, or zeros of that shape where there is none."""
    if state is None:
        return torch.zeros(shape, dtype=dtype)
    return state

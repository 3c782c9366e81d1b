"""What the stand-ins demand of all libraries' arguments."""

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


def stand_in(module, *names):
    """Puts a function into the module of a library, under its name or these, with the parameters that
    it has there. Those that the stand-in does not compute must be left out. Recurrent kernels have
    no backward pass."""

    def placed(function):
        own = inspect.signature(function).parameters

        def called_as(name):
            signature = SIGNATURES[f"{module}.{name}"]

            def call(*arguments, **named):
                assert "recurrent" not in name or not torch.is_grad_enabled(), "no backward pass"
                bound = signature.bind(*arguments, **named)
                for other in bound.arguments.keys() - own.keys():
                    assert bound.arguments[other] == signature.parameters[other].default, other
                bound.apply_defaults()
                return function(**{name: bound.arguments[name] for name in own})

            return call

        for name in names or (function.__name__,):
            MODULES.setdefault(module, {})[name] = called_as(name)
        return function

    return placed


def same_dtype(*tensors):
    assert len({tensor.dtype for tensor in tensors}) == 1, [tensor.dtype for tensor in tensors]
    return tensors[0].dtype


def start(state, *shape, dtype=torch.float32):
    """The given state, or zeros of that shape where there is none."""
    if state is None:
        return torch.zeros(shape, dtype=dtype)
    return state

"""Compile the Triton kernels that our layers launch, for GPUs that are not here: shared memory,
registers, errors.

    python tools/compile_kernels.py --mamba-ssm mamba --out kernels.csv     # 20 min on one core

A layer at a shipped width is computed on tensors without memory (torch's device `meta`): forward
and backward pass as in training, then prompt and step as in decoding. Each launch on the way is
compiled by Triton's own compiler for the target, and not started, so that shapes, constants and
autotuning keys are those of a real call. An autotuned kernel is compiled in its first configuration
that fits; --every compiles all of them, and --once each kernel for one shape only.

It needs triton and flash-linear-attention, which the extra `dev` has, and no GPU. `--mamba-ssm
FOLDER` takes mamba-ssm for `m2` from its sources, whose setup is not run; without it, `m2` is that
of flash-linear-attention:

    git clone --depth 1 --branch v2.3.2.post1 https://github.com/state-spaces/mamba
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib.machinery
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

LIMITS = {
    80: (166912, 108, "NVIDIA A100"),
    89: (101376, 142, "NVIDIA L40S"),
    90: (232448, 132, "NVIDIA H100"),
    100: (232448, 148, "NVIDIA B200"),
    120: (101376, 170, "NVIDIA GeForce RTX 5090"),
    121: (101376, 48, "NVIDIA GB10"),
}
OPERATORS = (
    "d",
    "gd",
    "kda",
    "gla",
    "m2",
    "r7",
)  # attention and feed-forward networks are no kernels of Triton
BATCH, TOKENS = 2, 4096
RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+)")


class Launch(NamedTuple):
    """One compiled configuration; `error` is empty where it compiles and fits."""

    target: str
    kernel: str
    operator: str
    width: int
    form: str
    constants: str
    warps: int
    stages: int
    shared_bytes: int
    registers: int
    stack_bytes: int  # above 0: registers were spilled
    error: str


class Compiler:
    """Stands between Triton and the device: compiles what is launched."""

    def __init__(self, target: int, *, every: bool = False, once: bool = False) -> None:
        self.target, self.every, self.once = target, every, once
        self.launches: list[Launch] = []
        self.seen: dict[
            object, bool
        ] = {}  # kernel with all that decides its code -> it compiles and fits
        self.fits = True  # of the last launch
        self.trying = False  # one of several configurations: another one may fit
        self.place: tuple[str, int, str] = ("", 0, "")

    def install(self) -> None:
        """Make Triton, and what libraries ask of torch.cuda when they are imported, believe in the
        target.
        """
        import torch
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.runtime.autotuner import Autotuner
        from triton.runtime.jit import JITFunction

        shared, processors, name = LIMITS[self.target]
        facts = {
            "max_shared_mem": shared,
            "multiprocessor_count": processors,
            "warpSize": 32,
            "max_num_regs": 65536,
        }
        device = types.SimpleNamespace(
            utils=types.SimpleNamespace(get_device_properties=lambda _: facts),
            get_current_target=lambda: GPUTarget("cuda", self.target, 32),
            get_current_device=lambda: 0,
            get_current_stream=lambda _=0: 0,
            get_active_torch_device=lambda: torch.device("cuda", 0),
            get_device_interface=lambda: torch.cuda,
            get_benchmarker=lambda: None,
        )
        triton.runtime.driver.set_active(device)
        properties = types.SimpleNamespace(
            name=name,
            shared_memory_per_block_optin=shared,
            shared_memory_per_block=49152,
            multi_processor_count=processors,
            major=self.target // 10,
            minor=self.target % 10,
        )
        for attribute, value in {
            "is_available": True,
            "device_count": 1,
            "current_device": 0,
            "get_device_name": name,
            "get_device_capability": divmod(self.target, 10),
            "get_device_properties": properties,
            "device": contextlib.nullcontext(),
            "is_bf16_supported": True,
        }.items():
            setattr(torch.cuda, attribute, lambda *_, value=value, **__: value)
        compiler, compile_launch = self, JITFunction.run

        def run(kernel: Any, *words: Any, grid: Any, warmup: bool, **options: Any) -> None:
            compiler.launch(
                kernel, lambda: compile_launch(kernel, *words, grid=grid, warmup=True, **options)
            )

        def bench(tuner: Any, *words: Any, config: Any, **options: Any) -> list[float]:
            """No timing: the first configuration that compiles and fits is the best. `nargs` is new
            in each call.
            """
            if not compiler.every and getattr(tuner, "fits_for", None) is tuner.nargs:
                return [1.0] * 3
            compiler.trying = not compiler.every
            tuner.fn.run(*words, **{**options, **config.all_kwargs()})
            compiler.trying = False
            if not compiler.fits:
                return [float("inf")] * 3
            tuner.fits_for = tuner.nargs
            return [0.0] * 3

        JITFunction.run, Autotuner._bench = run, bench

    def launch(self, kernel: Any, compile_launch: Callable[[], Any]) -> None:
        """Compile one launch; errors are results."""
        name = kernel.fn.__name__
        if self.once and self.seen.get(name):
            return
        compiled, error = None, ""
        try:
            compiled = compile_launch()
        except Exception as caught:  # the compiler raises anything
            error = _line(caught)
        if compiled and (shared := compiled.metadata.shared) > (
            available := LIMITS[self.target][0]
        ):
            error = f"needs {shared} bytes of shared memory; the device has {available}"
        key: object = name if self.once else compiled.hash if compiled else (name, error)
        self.fits = not error
        if (
            error and self.trying
        ):  # if no configuration fits, the call that follows the trials is a result
            return
        if key not in self.seen:
            self.launches.append(
                Launch(f"sm_{self.target}", name, *self.place, *_facts(kernel, compiled), error)
            )
        self.seen[key] = self.fits


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _facts(kernel: Any, compiled: Any) -> tuple[Any, ...]:
    """The fields of a Launch from `constants` to `stack_bytes`."""
    if compiled is None:
        return ("",) * 6
    metadata = compiled.metadata
    constants = " ".join(
        f"{kernel.arg_names[index[0]]}={value}"
        for index, value in compiled.src.constants.items()
        if isinstance(value, int)
        and not isinstance(value, bool)
        and not kernel.arg_names[index[0]].startswith("stride")
    )
    return (
        constants,
        metadata.num_warps,
        metadata.num_stages,
        metadata.shared,
        *used_registers(compiled.asm["cubin"]),
    )


def used_registers(cubin: bytes) -> tuple[int, int] | tuple[str, str]:
    """Registers and bytes of stack of a thread, by the cuobjdump that comes with Triton."""
    import triton

    program = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        output = subprocess.run(
            [program, "-res-usage", file.name], capture_output=True, text=True, check=False
        ).stdout
    match = RESOURCES.search(output)
    return (int(match[1]), int(match[2])) if match else ("", "")


def use_sources(folder: Path) -> None:
    """Make `mamba_ssm` importable from its sources, without what its own __init__ imports, which is
    compiled.
    """
    package = types.ModuleType("mamba_ssm")
    package.__path__ = [str(folder / "mamba_ssm")]
    package.__spec__ = importlib.machinery.ModuleSpec("mamba_ssm", None, is_package=True)
    text = (folder / "mamba_ssm/__init__.py").read_text()
    package.__version__ = re.search(r'__version__ = "([^"]+)"', text)[1]  # type: ignore[index]
    sys.modules["mamba_ssm"] = package


def compile_operator(compiler: Compiler, notation: str, width: int) -> None:
    """Compute one layer on tensors without memory: as trained, and as deployed."""
    import torch

    from flashnas.architecture import parse_operators
    from flashnas.operators.layer import build_layer

    with torch.device("meta"):
        layer = build_layer(parse_operators(notation)[0], width)
        for parameter in layer.parameters():
            if parameter.ndim > 1:  # autocast would make these products bfloat16
                parameter.data = parameter.data.bfloat16()
        x_BTD = torch.empty(BATCH, TOKENS, width, dtype=torch.bfloat16, requires_grad=True)
        compiler.place = (notation, width, "training")
        y_BTD, _ = layer(x_BTD)
        y_BTD.sum().backward()
        layer.to(torch.bfloat16)
        with torch.no_grad():
            compiler.place = (notation, width, "prompt")
            _, state = layer(x_BTD)
            compiler.place = (notation, width, "step")
            layer.step(x_BTD[:, -1], state)


def launches(
    target: int,
    operators: Sequence[str],
    widths: Sequence[int],
    every: bool = False,
    once: bool = False,
    mamba_ssm: Path | None = None,
) -> list[Launch]:
    """What the layers launch on one target, in a process that has imported nothing: libraries look
    at the device when they are imported."""
    os.environ["FLA_CACHE_RESULTS"] = "0"  # what is not timed must not be remembered
    os.environ["TORCHDYNAMO_DISABLE"] = (
        "1"  # fla compiles some of its functions by torch, which wants a device
    )
    compiler = Compiler(target, every=every, once=once)
    compiler.install()
    for name in ("fla.layers", "fla.models"):  # which import transformers; fla goes on without
        sys.modules[name] = None  # type: ignore[assignment]
    if mamba_ssm:
        use_sources(mamba_ssm)
    import torch

    from flashnas.operators.backends.core import Core

    Core.of = lambda core, x: core.kernels("cuda", x.dtype)  # type: ignore[method-assign]
    # the device "meta" has no autocast, not even one that is off
    torch.autocast = lambda *_, **__: contextlib.nullcontext()  # type: ignore[assignment,misc]
    for width in widths:
        for notation in operators:
            try:
                compile_operator(compiler, notation, width)
            except Exception as caught:  # of a library, which may want a device on the way
                compiler.launches.append(
                    Launch(
                        f"sm_{target}",
                        "",
                        notation,
                        width,
                        compiler.place[2],
                        *("",) * 6,
                        _line(caught),
                    )
                )
            print(
                f"sm_{target}: {notation} at width {width}, {len(compiler.launches)} kernels",
                file=sys.stderr,
            )
    return compiler.launches


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--targets",
        nargs="+",
        type=int,
        choices=LIMITS,
        default=list(LIMITS),
        help="compute capability times 10",
    )
    parser.add_argument("--operators", nargs="+", default=list(OPERATORS), help="notations")
    parser.add_argument("--widths", nargs="+", type=int, default=[2048])
    parser.add_argument(
        "--every", action="store_true", help="all configurations of autotuned kernels; hours"
    )
    parser.add_argument("--once", action="store_true", help="each kernel for the first shape only")
    parser.add_argument("--mamba-ssm", type=Path, metavar="FOLDER", help="unpacked sources")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="CSV file; otherwise it is printed"
    )
    options = parser.parse_args()
    with ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as pool:
        parts = [
            pool.submit(
                launches,
                target,
                options.operators,
                options.widths,
                options.every,
                options.once,
                options.mamba_ssm,
            )
            for target in options.targets
        ]
        rows = [row for part in parts for row in part.result()]
    with (
        open(options.out, "w", newline="")
        if options.out
        else contextlib.nullcontext(sys.stdout) as file
    ):
        csv.writer(file, lineterminator="\n").writerows([Launch._fields, *rows])
    wrong = [row for row in rows if row.error]
    print(f"{len(rows)} kernels, {len(wrong)} do not compile or do not fit", file=sys.stderr)
    return int(bool(wrong) and not options.every)


if __name__ == "__main__":
    sys.exit(main())

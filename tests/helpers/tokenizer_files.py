"""Tokenizer files of the kinds that real models have, made by the same classes of the library."""

import json

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, processors, trainers
from tokenizers import pre_tokenizers as pre

from flashnas.data.tokenizer import SpecialTokens

QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA = QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|")
TEXT = "the state of the union, it's 1234.5 and 12 in 333 or 42nd; def f(x): return x ** 2\n" * 30
TURNS = ("<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HEADERS = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] +"
    " '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
)
# special tokens in the order of their ids, the pre-tokenizer, then what is put in front of a text,
# the tokens that end one (the first by tokenizer_config.json) and the chat template
KINDS = {
    "smollm2": (("<|endoftext|>", *TURNS), "digits", None, ["<|im_end|>"], CHATML),
    "qwen3": (("<|endoftext|>", *TURNS), QWEN, None, ["<|im_end|>", "<|endoftext|>"], CHATML),
    "smollm3": (("<|end_of_text|>", *TURNS), LLAMA, None, ["<|im_end|>"], CHATML),
    "lfm2": (
        ("<|pad|>", "<|startoftext|>", "<|endoftext|>", *TURNS),
        LLAMA,
        "<|startoftext|>",
        ["<|im_end|>"],
        "{{ bos_token }}" + CHATML,
    ),
    "llama3": (
        (
            *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
            *("<|eom_id|>", "<|eot_id|>"),
        ),
        LLAMA,
        "<|begin_of_text|>",
        ["<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"],
        HEADERS,
    ),
}
WHOLE_WORDS = ("llama3", "lfm2")  # a word that is a token stays whole


def write_tokenizer_files(kind, folder):
    """Write them, and return the tokenizer and what stands beside it. A word in them is a token that
    no merges make."""
    special, expression, front, ends, template = KINDS[kind]
    tokenizer = Tokenizer(models.BPE(ignore_merges=kind in WHOLE_WORDS))
    splits = [pre.Split(Regex(expression), "isolated"), pre.ByteLevel(False, use_regex=False)]
    if expression == "digits":
        splits = [pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer, tokenizer.decoder = pre.Sequence(splits), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=list(special),
        initial_alphabet=pre.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    if kind.startswith("qwen"):
        tokenizer.normalizer = normalizers.NFC()
    if front:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[front, "$A"], special_tokens=[(front, tokenizer.token_to_id(front))]
        )
    described = json.loads(tokenizer.to_str())
    described["model"]["vocab"]["Ġstrong"] = 340
    described["added_tokens"].append(
        {**described["added_tokens"][0], "id": 341, "content": "<think>", "special": False}
    )
    config = {
        "bos_token": front,
        "eos_token": ends[0],
        "pad_token": None,
        "chat_template": template,
    }
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "auto_map": {"AutoTokenizer": "x.Y"}}
    generation = {"eos_token_id": [tokenizer.token_to_id(end) for end in ends], "temperature": 0.6}
    files = {"tokenizer": described, "tokenizer_config": config, "generation_config": generation}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    path = folder / "tokenizer.json"
    return Tokenizer.from_file(str(path)), SpecialTokens.beside(path)

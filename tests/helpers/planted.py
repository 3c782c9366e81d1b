"""A small Llama in which two of six attention layers carry the recall, as a folder.

Two layers have learnt to recall: in the first one each head was taught to look one or two tokens
back, in the second one to look at the value that stands behind the key. Revision 43692474 of this
file trained them. Four layers of random attention, and feed-forward networks that write nothing, are
put around them.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

WORDS, LAYERS, PLANTED = 48, 6, (1, 4)
NEWLINE, EQUALS, END, FIRST_WORD = range(4)
SIZES = {
    "vocab_size": FIRST_WORD + WORDS,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.15,
    "rope_theta": 100.0,
}
TRAINED = Path(__file__).parents[1] / "golden" / "planted.safetensors"  # the two layers
NOISE = 0.05  # standard deviation of what random attention writes


class Language:
    """Words that follow each other, and lines `key = value` that ask for what was stated."""

    def __init__(self, seed):
        self.generator = np.random.default_rng(seed)
        shuffled = np.random.default_rng(0).permutation(2 * WORDS) % WORDS
        self.followers = shuffled.reshape(WORDS, 2) + FIRST_WORD

    def filler(self, count):
        found = [int(self.generator.integers(WORDS)) + FIRST_WORD]
        while len(found) < count:
            pair = self.followers[found[-1] - FIRST_WORD]
            found.append(int(self.generator.choice(pair)))
        return found[:count]

    def context(self, length, pairs, asked):
        drawn = self.generator.permutation(WORDS)[: 2 * pairs] + FIRST_WORD
        lines = [[NEWLINE, key, EQUALS, value, NEWLINE] for key, value in drawn.reshape(2, -1).T]
        found = []
        for number in [*range(pairs), *self.generator.integers(pairs, size=asked)]:
            found += self.filler((length - 5 * (pairs + asked)) // (pairs + asked))
            found += lines[number]
        return found + self.filler(length - len(found))


def words():
    generator = np.random.default_rng(0)
    letters = list("abcdefghijklmnopqrstuvwxyz")
    return list(dict.fromkeys("".join(generator.choice(letters, 5)) for _ in range(WORDS)))


def write_tokenizer(path):
    vocab = {"\n": NEWLINE, "=": EQUALS, "<end>": END}
    vocab |= {word: number for number, word in enumerate(words(), start=FIRST_WORD)}
    tokenizer = Tokenizer(models.WordLevel(vocab, "<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n|[^ \n]+"), "removed", invert=True)
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.save(str(path))


def planted_llama(folder):
    """Write the model, its tokenizer, and text of its language."""
    import transformers

    torch.manual_seed(0)
    small = transformers.LlamaForCausalLM(transformers.LlamaConfig(num_hidden_layers=2, **SIZES))
    small.load_state_dict(load_file(TRAINED), strict=False)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(num_hidden_layers=LAYERS, **SIZES)
    )
    model.model.embed_tokens.load_state_dict(small.model.embed_tokens.state_dict())
    model.model.norm.load_state_dict(small.model.norm.state_dict())
    with torch.no_grad():
        for number, layer in enumerate(model.model.layers):
            if number in PLANTED:
                layer.load_state_dict(small.model.layers[PLANTED.index(number)].state_dict())
            else:
                layer.self_attn.o_proj.weight.normal_(0, NOISE / 8)
                layer.mlp.down_proj.weight.zero_()
    model.save_pretrained(folder / "model")
    write_tokenizer(folder / "model" / "tokenizer.json")
    language, names = Language(2), ["\n", "=", "<end>", *words()]
    texts = []
    for _ in range(60):
        tokens = language.filler(150) + language.context(150, 2, 1)
        texts.append(" ".join(names[token] for token in tokens))
    (folder / "text").mkdir()
    for number, text in enumerate(texts):
        (folder / "text" / f"{number:02d}.txt").write_text(text)
    return folder / "model", folder / "text"

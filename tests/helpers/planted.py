"""A small Llama in which two of six attention layers carry the recall, as a folder.

Two layers learn to recall: in the first one each head is taught to look one or two tokens back, in
the second one to look at the value that stands behind the key. Four layers of random attention, and
feed-forward networks that write nothing, are put around them.
"""

import numpy as np
import torch
import torch.nn.functional as F
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
STEPS, SHORT = 1000, 0.7  # steps of training, the share of them that are on short contexts
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


def teaching_loss(attention, tokens):
    """How far the heads are from where they are to look."""
    first, second = attention
    loss = 0.0
    for back in (1, 2):
        loss = loss - first[:, back - 1].diagonal(-back, 1, 2).clamp_min(1e-6).log().mean()
    asks = tokens == EQUALS
    one_back, two_back = F.pad(tokens[:, :-1], (1, 0)), F.pad(tokens[:, :-2], (2, 0))
    is_value = F.pad(asks[:, :-1], (1, 0))
    wanted = (one_back[:, :, None] == two_back[:, None, :]) & is_value[:, None, :]
    wanted = (wanted & asks[:, :, None]).tril(-1)
    found = (second[:, 0] * wanted).sum(-1)[wanted.any(-1)]
    return loss - found.clamp_min(1e-6).log().mean()


def train_recall():
    """The model of two layers."""
    import transformers

    config = transformers.LlamaConfig(num_hidden_layers=2, attn_implementation="eager", **SIZES)
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:  # heads copy what they look at
            for head in range(2):
                rows = slice(32 * head, 32 * head + 32)
                basis = torch.linalg.qr(torch.randn(64, 32))[0]
                layer.self_attn.v_proj.weight[rows] = basis.T
                layer.self_attn.o_proj.weight[:, rows] = basis
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, STEPS, pct_start=0.1)
    language = Language(1)
    for step in range(STEPS):
        short = step < SHORT * STEPS
        length, pairs, count = (80, 4, 16) if short else (256, 8, 8)
        rows = [
            language.context(length, pairs, asked)
            for asked in (0, 3 * pairs, 3 * pairs, 3 * pairs)
            for _ in range(count // 4)
        ]
        tokens = torch.tensor(rows)
        seen, next_ones = tokens[:, :-1], tokens[:, 1:]
        output = model(seen, output_attentions=True)
        cost = F.cross_entropy(output.logits.flatten(0, 1), next_ones.flatten(), reduction="none")
        cost = cost.view(seen.shape)
        loss = cost.mean() + cost[seen == EQUALS].mean()
        (loss + teaching_loss(output.attentions, seen)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model


def planted_llama(folder):
    """Train and write the model, its tokenizer, and text of its language; about 40 CPU-seconds."""
    import transformers

    torch.manual_seed(0)
    small = train_recall()
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

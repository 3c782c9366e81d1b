"""What a search asks of a model: its loss after a short training by this file's own code, and its
latency.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashnas_gpt2_space.space import Gpt2

STEPS, BATCH, LR = 40, 16, 3e-3
BANDWIDTH_BYTES_S, LAUNCH_S = (
    50e9,
    20e-6,
)  # of a made-up device: memory bandwidth, time to start one layer
GENERATED_TOKENS = 64


def latency_ms(model: Gpt2) -> float:
    """Milliseconds to generate 64 tokens: each one reads all weights in bfloat16, and every layer
    has to be started.
    """
    return (
        1000 * GENERATED_TOKENS * (2 * model.params / BANDWIDTH_BYTES_S + model.layers * LAUNCH_S)
    )


def loss(model: Gpt2, steps: int = STEPS, *, seed: int = 0) -> float:
    """Validation loss in nats per token after so many steps; lower is better. seed: of weights and
    batches.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    network = Network(model)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR)
    train_N, validation_N = text(model.vocab).split([30_000, 4_096])
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        starts_B = torch.randint(len(train_N) - model.context - 1, (BATCH,), generator=generator)
        tokens_BT = torch.stack([train_N[start : start + model.context + 1] for start in starts_B])
        optimizer.zero_grad()
        network.loss(tokens_BT).backward()
        optimizer.step()
    with torch.no_grad():
        whole = len(validation_N) // (model.context + 1) * (model.context + 1)
        return float(network.loss(validation_N[:whole].unflatten(0, (-1, model.context + 1))))


@functools.cache
def text(vocab: int) -> Tensor:
    """A made-up language: a token follows from the one before it (one of three), or repeats the one
    eight back.
    """
    generator = torch.Generator().manual_seed(7)
    follows_V3 = torch.randint(vocab, (vocab, 3), generator=generator).tolist()
    choices = torch.multinomial(
        torch.tensor([0.4, 0.1, 0.1, 0.4]), 34_096, replacement=True, generator=generator
    )
    tokens = list(range(8))
    for choice in choices[8:].tolist():
        tokens.append(tokens[-8] if choice == 3 else follows_V3[tokens[-1]][choice])
    return torch.tensor(tokens)


class Network(nn.Module):
    """GPT-2: learned positions, pre-norm blocks with biases, GELU, the head tied to the
    embedding.
    """

    def __init__(self, model: Gpt2) -> None:
        super().__init__()
        self.tokens = nn.Embedding(model.vocab, model.width)
        self.positions = nn.Embedding(model.context, model.width)
        self.blocks = nn.ModuleList(Block(model) for _ in range(model.layers))
        self.norm = nn.LayerNorm(model.width)
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTD = self.tokens(tokens_BT) + self.positions.weight[: tokens_BT.shape[1]]
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return F.linear(self.norm(x_BTD), self.tokens.weight)

    def loss(self, tokens_BT: Tensor) -> Tensor:
        return F.cross_entropy(self(tokens_BT[:, :-1]).flatten(0, 1), tokens_BT[:, 1:].flatten())


class Block(nn.Module):
    """Attention and a feed-forward network, each with a residual."""

    def __init__(self, model: Gpt2) -> None:
        super().__init__()
        width = model.width
        self.heads = model.heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = (
            nn.Linear(width, model.mlp_ratio * width),
            nn.Linear(model.mlp_ratio * width, width),
        )

    def forward(self, x_BTD: Tensor) -> Tensor:
        q_BHTK, k_BHTK, v_BHTK = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.norm_1(x_BTD)).chunk(3, -1)
        )
        y_BHTK = F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)
        x_BTD = x_BTD + self.out(y_BHTK.transpose(1, 2).flatten(2))
        return x_BTD + self.down(F.gelu(self.up(self.norm_2(x_BTD))))

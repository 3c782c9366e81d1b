"""Small networks with weights that reach every branch, and what the tests compare."""

import torch

from flashnas.architecture import Architecture
from flashnas.data.tokenizer import train_tokenizer
from flashnas.exporting.source import Source
from flashnas.network.model import HybridLM

torch.set_num_threads(1)

MIXED = (
    "64(vocab=300,meta=3): a(head_dim=16) d(head_dim=16) m2(head_dim=16,state=16) f"
    " swa(head_dim=16,window=5) gd(head_dim=16) gla(head_dim=16)"
)
TEXT = ["the state of the union is strong", "fellow citizens of the senate and of the house"]


def make_network(notation, seed=0):
    """Norms away from 1 and biases away from 0."""
    torch.manual_seed(seed)
    network = HybridLM(Architecture.parse(notation)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    return network


def make_source(notation):
    return Source(make_network(notation), None, "made for a test")


def make_tokens(network, batch, count):
    generator = torch.Generator().manual_seed(5)
    return torch.randint(1, network.architecture.vocab, (batch, count), generator=generator)


def write_tokenizer_json(path):
    train_tokenizer([text * 20 for text in TEXT], 290).save(str(path))
    return path

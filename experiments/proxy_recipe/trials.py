"""Train the proxies of published rows under one set of levers, and keep every reading: one CSV line a training.

    nice python experiments/proxy_recipe/trials.py NAME [lever=value ..] [--recipe cpu] [--copies 0.3] [--groups G ..]
        [--seeds 0 ..] [--width 64] [--rule layout] [--recall 0.2] [--like TRIAL]

A lever is a field of a recipe, over LEVERS. `trials.csv` grows by one line for each finished training; a training
that stands there already is not repeated. Its column `levers` has all levers, so that the same words train the same:
those of --recipe are written out, and `copies` and `recall` are options. One thread.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from flashnas.base.errors import CandidateError
from flashnas.data.dataset import Dataset, prepare_dataset
from flashnas.evidence.proxies import RULES, proxies
from flashnas.evidence.trainings import read_published
from flashnas.proxy.tasks.mad import InContextRecall
from flashnas.proxy.worker import single_thread
from flashnas.training.recipe import Recipe

LEVERS = {"width_factor": 32, "least_head_dim": 64, "vocab": 4096, "sequence_tokens": 512, "batch_sequences": 2,
          "tokens": 262_144, "validation_tokens": 81_920, "curve_points": 4, "curve_tokens": 20_480, "muon_lr": 0.004,
          "adamw_lr": 0.01, "lr_multipliers": {"m.conv": 0.1, "moe.router": 0.01}, "warmup_fraction": 0.05,
          "final_lr_fraction": 0.02, "embedding_std": 0.1}
READINGS = ("loss", "early", "late", "recall", "no_recall", "frequent", "rare", "copied", "answers")
RECALL = InContextRecall(vocab=32, length=128)   # 16 keys in 64 pairs
COLUMNS = ("trial", "levers", "corpus", "rule", "width", "group", "operators", "proxy", "seed", "tokens", *READINGS,
           "curve", "params", "seconds", "tokens_per_s", "reason")


def readings(network, dataset: Dataset, recipe: Recipe) -> dict[str, float]:  # type: ignore[no-untyped-def]
    """Means of the loss in nats over kinds of validation tokens.

    recall: the pair of tokens before it and the token itself stood together earlier in the sequence. no_recall: the
    others. frequent, rare: among the 256 most frequent tokens of the training text, or not. copied: the second half
    of sequences whose halves are equal.
    """
    import torch
    import torch.nn.functional as F

    from flashnas.training.trainer import autocast

    def losses(rows: np.ndarray) -> np.ndarray:
        found = []
        for start in range(0, len(rows), 8):
            part = torch.from_numpy(rows[start:start + 8])
            with torch.no_grad(), autocast(recipe, part.device):
                hidden = network.hidden_states(part[:, :-1])
                logits = F.linear(hidden, network.head_weight)
            found.append(F.cross_entropy(logits.float().transpose(1, 2), part[:, 1:], reduction="none").numpy())
        return np.concatenate(found)

    rows = dataset.validation_slice(recipe, recipe.validation_tokens)
    network.eval()
    loss = losses(rows)
    recalled = np.zeros_like(loss, dtype=bool)
    for n, row in enumerate(rows):
        seen: set[tuple[int, int, int]] = set()
        for t in range(1, len(row) - 1):
            triple = (int(row[t - 1]), int(row[t]), int(row[t + 1]))
            recalled[n, t] = triple in seen
            seen.add(triple)
    counts = np.bincount(np.asarray(dataset.train), minlength=recipe.vocab)
    frequent = np.isin(rows[:, 1:], np.argsort(-counts)[:256])
    half = loss.shape[1] // 2
    twice = np.concatenate([rows[:40, :half], rows[:40, :half]], axis=1)
    asked = RECALL.test_set(64, 0)
    answers = losses(asked.inputs_BT + recipe.vocab - RECALL.vocab)[asked.targets_BT[:, :-1] >= 0]
    return {"loss": loss.mean(), "early": loss[:, :half].mean(), "late": loss[:, half:].mean(),
            "recall": loss[recalled].mean(), "no_recall": loss[~recalled].mean(), "frequent": loss[frequent].mean(),
            "rare": loss[~frequent].mean(), "copied": losses(twice)[:, half:].mean(),
            "answers": answers.mean()}


def with_copies(tokens: np.ndarray, share: float) -> np.ndarray:
    """The text in pieces of 32 to 256 tokens, `share` of which are followed by a copy of themselves."""
    rng = np.random.default_rng(0)
    pieces, place = [], 0
    while place < len(tokens):
        piece = tokens[place:place + int(rng.integers(32, 257))]
        pieces += [piece, piece] if rng.random() < share else [piece]
        place += len(piece)
    return np.concatenate(pieces)


def with_recall(tokens: np.ndarray, share: float, vocab: int) -> np.ndarray:
    """The text in pieces of 128 tokens, among which `share` of all pieces are sequences of RECALL, in the last words of
    the vocabulary, which are the rarest."""
    rng = np.random.default_rng(0)
    pieces = list(tokens[:len(tokens) // RECALL.length * RECALL.length].reshape(-1, RECALL.length))
    count = round(len(pieces) * share / (1 - share))
    asked = RECALL.draw(count, rng).inputs_BT + vocab - RECALL.vocab
    places = rng.integers(0, len(pieces) + 1, count)
    return np.insert(np.stack(pieces), places, asked.astype(tokens.dtype), axis=0).reshape(-1)


def levers_of(recipe: Recipe) -> dict[str, Any]:
    """What a recipe changes in LEVERS, shipped recipes written out: these may change later."""
    plain = Recipe.from_dict({**LEVERS, "name": recipe.name}).to_dict()
    return {key: value for key, value in recipe.to_dict().items() if value != plain.get(key)}


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trial")
    parser.add_argument("levers", nargs="*", default=[])
    parser.add_argument("--groups", nargs="*")
    parser.add_argument("--only", type=int, nargs="*", help="places of rows, from 0")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rule", choices=RULES, default="params")
    parser.add_argument("--corpus", default="sotu+stdlib")
    parser.add_argument("--recipe", help="over this one, in place of LEVERS")
    parser.add_argument("--copies", type=float, default=0, help="share of pieces of the text that are written twice")
    parser.add_argument("--recall", type=float, default=0, help="share of the tokens that are sequences of recall")
    parser.add_argument("--like", metavar="TRIAL",
                        help="take a training from this trial where the same proxy is trained under the same levers")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("trials.csv"))
    arguments = parser.parse_intermixed_args()
    single_thread()
    from flashnas.training.trainer import train_network

    own = {key: yaml.safe_load(value) for key, value in (lever.split("=", 1) for lever in arguments.levers)}
    base = LEVERS if arguments.recipe is None else Recipe.load(arguments.recipe).to_dict()
    recipe = Recipe.from_dict({**base, **own, "name": arguments.trial})
    levers = levers_of(recipe)
    dataset = prepare_dataset(arguments.corpus, recipe)
    if arguments.copies:
        levers["copies"] = arguments.copies
        dataset = dataclasses.replace(dataset, train=with_copies(np.asarray(dataset.train), arguments.copies))
    if arguments.recall:
        levers["recall"] = arguments.recall
        dataset = dataclasses.replace(dataset, train=with_recall(np.asarray(dataset.train), arguments.recall,
                                                                 recipe.vocab))
    rows = read_published()
    networks = proxies(rows, width=arguments.width, width_factor=recipe.width_factor, vocab=dataset.vocab,
                       least_head_dim=recipe.least_head_dim, rule=arguments.rule,
                       depth_factor=recipe.depth_factor)
    out: Path = arguments.out
    if not out.exists():
        out.write_text(",".join(COLUMNS) + "\n")
    with out.open(newline="") as file:
        done = {(row["trial"], row["group"], row["operators"], row["proxy"], int(row["seed"])): row
                for row in csv.DictReader(file)}
    all_levers = {**LEVERS, **levers}
    by_proxy = {(row["proxy"], int(row["seed"])): row for row in done.values()
                if row["trial"] == arguments.trial or (row["trial"] == arguments.like and not row["reason"]
                                                       and {**LEVERS, **json.loads(row["levers"])} == all_levers)}
    for seed in arguments.seeds:
        for place, (row, network) in enumerate(zip(rows, networks, strict=True)):
            key = (arguments.trial, row.group, row.operators, network.notation, seed)
            if (arguments.groups and row.group not in arguments.groups) or key in done:
                continue
            if arguments.only is not None and place not in arguments.only:
                continue
            entry = {"trial": arguments.trial, "levers": json.dumps(levers), "corpus": arguments.corpus,
                     "rule": arguments.rule, "width": arguments.width, "group": row.group, "operators": row.operators,
                     "proxy": network.notation, "seed": seed, "params": network.params}
            if same := by_proxy.get((network.notation, seed)):
                entry = {**same, **{name: entry[name] for name in ("trial", "levers", "rule", "group", "operators")}}
            else:
                started = time.perf_counter()
                try:
                    trained, score = train_network(network, dataset, recipe, seed)
                    entry |= {"tokens": score.tokens, "curve": json.dumps(score.curve),
                              "tokens_per_s": round(score.tokens_per_s),
                              **{name: f"{value:.5f}" for name, value in readings(trained, dataset, recipe).items()}}
                except CandidateError as error:
                    entry["reason"] = str(error)
                entry["seconds"] = round(time.perf_counter() - started, 1)
                by_proxy[network.notation, seed] = entry
            with out.open("a", newline="") as file:
                csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(entry)
            print(arguments.trial, row.group, row.operators[:40], entry.get("loss"), entry["seconds"], flush=True)


if __name__ == "__main__":
    main()

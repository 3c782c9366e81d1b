"""Vocabulary against latency, with the tokens that a text needs (arXiv 2511.18890, table 13). See
README.md.

    python experiments/paper/vocabulary.py     # about two minutes of one core; trains tokenizers,
    times nothing

A tokenizer of each size is trained on nine tenths of a text. Tokens per byte are those of the other
tenth. The latency is that of Nemotron-Flash-1B with this vocabulary, which writes TEXT_BYTES of
such text on an H100, as predicted.
"""

from dataclasses import replace
from pathlib import Path

import pandas as pd
from picture import framed, still

import flashnas as fn
from flashnas.data.corpus import read_corpus
from flashnas.data.split import split_documents
from flashnas.data.tokenizer import train_tokenizer, vocab_size
from flashnas.report.drawing import SERIES

HERE = Path(__file__).parent
CSV, PNG = HERE / "vocabulary.csv", HERE / "vocabulary.png"
TEXTS = {"sotu": "addresses (English)", "stdlib": "Python's library (code)"}
SIZES = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
TEXT_BYTES = 32_768
TABLES = ("h100_sxm", "l40s")


def tokens_per_byte(text: str) -> pd.DataFrame:
    """A row for each size that the text can fill."""
    split = split_documents(read_corpus(text).documents)
    held_out = list(split.validation)
    size = sum(len(document.encode()) for document in held_out)
    rows = []
    for vocab in SIZES:
        tokenizer = train_tokenizer(split.train, vocab)
        if vocab_size(tokenizer) < vocab:  # no pair of the text is left to join
            break
        tokens = sum(len(encoded.ids) for encoded in tokenizer.encode_batch(held_out))
        rows.append(
            {
                "text": text,
                "train_bytes": sum(len(document.encode()) for document in split.train),
                "held_out_bytes": size,
                "vocab": vocab,
                "tokens_per_byte": round(tokens / size, 5),
            }
        )
    return pd.DataFrame(rows)


def with_latencies(rows: pd.DataFrame) -> pd.DataFrame:
    """Adds size and latency of the network with each vocabulary, by row."""
    base = fn.load_architecture("Nemotron-Flash-1B")
    figures = []
    for row in rows.itertuples():
        network = replace(base, vocab=row.vocab)
        workload = fn.Workload(generated_tokens=round(TEXT_BYTES * row.tokens_per_byte))
        figure = {"params_m": round(network.params / 1e6, 1)}
        for table in TABLES:
            estimate = fn.estimate(network, table=table, workload=workload, calibration="paper")
            figure |= {
                f"{table}_ms_per_token": round(estimate.tpot_ms, 4),
                f"{table}_us_per_byte": round(1e3 * estimate.latency_ms / TEXT_BYTES, 2),
            }
        figures.append(figure)
    return rows.join(pd.DataFrame(figures, index=rows.index))


def draw(rows: pd.DataFrame) -> None:
    """Tokens per byte, time of a token and time of a byte over the vocabulary."""
    with still(
        PNG,
        (13.0, 4.6),
        "Which vocabulary is fastest for a text?",
        f"Nemotron-Flash-1B with each vocabulary writes {TEXT_BYTES:,} bytes; predicted for batch"
        " 1.",
    ) as figure:
        panels = {
            "tokens_per_byte": "tokens per byte of unseen text",
            "ms_per_token": "time of a token (ms)",
            "us_per_byte": "time of a byte (µs)",
        }
        for place, (column, text) in enumerate(panels.items()):
            axes = framed(figure, (0.055 + 0.325 * place, 0.14, 0.265, 0.66))
            for colour, (source, part) in zip(
                SERIES, rows.groupby("text", sort=False), strict=False
            ):
                for table, style in zip(TABLES, ("-", "--"), strict=True):
                    name = column if place == 0 else f"{table}_{column}"
                    if (place, table) != (0, TABLES[1]) and (place, source) != (1, "stdlib"):
                        axes.plot(
                            part["vocab"],
                            part[name],
                            style,
                            marker="o",
                            markersize=4,
                            color=colour if place != 1 else "#1B1F24",
                            label={0: TEXTS[source], 1: table, 2: f"{source}, {table}"}[place],
                        )
            axes.set_xscale("log", base=2)
            axes.set_xticks(SIZES[::2], [f"{size:,}" for size in SIZES[::2]], fontsize=8)
            axes.set(xlabel="vocabulary", ylabel=text, ylim=(0, None))
            axes.legend(frameon=False, fontsize=8)


def main() -> None:
    """Write vocabulary.csv and vocabulary.png and print the table."""
    rows = with_latencies(pd.concat(map(tokens_per_byte, TEXTS), ignore_index=True))
    rows.to_csv(CSV, index=False)
    print(rows.to_string(index=False))
    draw(rows)


if __name__ == "__main__":
    main()

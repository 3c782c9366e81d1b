"""Write the short trainings that the answer of a search proposes, for a trainer elsewhere.

    python examples/short_trainings.py RUN OUT

OUT gets a configuration for each training, and a table of their losses to fill in for `--evidence`.
"""

import csv
import io
import sys
from dataclasses import replace
from pathlib import Path

import flashnas
from flashnas.architecture import Architecture
from flashnas.base.errors import ExportError
from flashnas.base.system import atomic_folder, disk_errors, write_synced
from flashnas.base.text import tokens_text
from flashnas.exporting.configuration import CARD, export_configuration
from flashnas.families.family import family_of
from flashnas.run_folder.layout import yaml_text
from flashnas.run_folder.recorded_run import RecordedRun
from flashnas.study.next_trainings import LEVEL, group_of
from flashnas.training.recipe import Recipe

TABLE = "trainings.csv"
TRAINED_AS = "gpu"  # the recipe whose settings the trainer gets
COLUMNS = [
    "group",
    "level",
    "source",
    "operators",
    "params",
    "tokens",
    "hidden",
    "vocab",
    "metric",
    "value",
]
TEXT = """\
# Short trainings

Train each network alike: the same text, tokenizer and rates, {tokens} tokens each. Write the loss on
held-out text, in nats per token, into the column `value` of {table}, and search again with
`--evidence {table}`: the answer says what they change.

{lines}

A folder is a configuration for a trainer of yours, such as `examples/train_exported.py`; with the
settings of the recipe `{recipe.name}` on one GPU, which takes {together} sequences at a time:

    python examples/train_exported.py 01 --data YOUR_TEXT.jsonl --tokenizer YOURS \\
        --context {recipe.sequence_tokens} --max_steps {recipe.steps} \\
        --per_device_train_batch_size {together} --gradient_accumulation_steps {passes} \\
        --learning_rate {recipe.adamw_lr} --adam_beta1 {recipe.adamw_beta1} \\
        --adam_beta2 {recipe.adamw_beta2} \\
        --weight_decay {recipe.weight_decay} --max_grad_norm {recipe.clip} --warmup_steps {warmup} \\
        --lr_scheduler_type cosine_with_min_lr \\
        --lr_scheduler_kwargs '{{"min_lr_rate": {recipe.final_lr_fraction}}}' --bf16 --output_dir 01/trained

A .yaml, where no program loads the network, is for `flashnas train 01.yaml --recipe {recipe.name}
--width-factor 1 --tokens {tokens}`. Written by flashnas {version}.
"""


def export_trainings(run: str, out: Path) -> list[Architecture]:
    """Returns the networks, as they are trained. Raises RunError for what is no run, and ExportError
    where its answer proposes no trainings, or the disk is full."""
    answer = RecordedRun.load(run).answer
    if answer is None or (found := answer.next_trainings) is None:
        raise ExportError(f"{run}: its answer proposes no short trainings")
    networks = [Architecture.parse(text) for text in found["networks"]]
    table, lines = io.StringIO(), []
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    tokens = tokens_text(found["tokens"])
    with (
        disk_errors(f"{out}: cannot be written", ExportError),
        atomic_folder(out, existing="refuse") as fresh,
    ):
        for number, network in enumerate(networks, 1):
            name = f"{number:02}"
            if family_of(network) is None:
                name += ".yaml"
                write_synced(fresh / name, yaml_text({"architecture": network.notation}))
            else:
                export_configuration(
                    network.notation, fresh / name, dtype="float32", tokenizer=None
                )
            operators = " ".join(map(str, network.operators))
            params = replace(network, tied=True, meta_tokens=0).params  # with one embedding alone
            sizes = params, int(found["tokens"]), network.hidden, network.vocab
            group = group_of(network, found["tokens"])
            writer.writerow([group, LEVEL, "own", operators, *sizes, "val_loss", ""])
            lines.append(f"- {name}: {network.notation}")
        write_synced(fresh / TABLE, table.getvalue())
        recipe = replace(Recipe.load(TRAINED_AS), tokens=int(found["tokens"]))
        together = 4 * (recipe.micro_batch_sequences or 1)
        card = TEXT.format(
            tokens=tokens,
            recipe=recipe,
            together=together,
            passes=recipe.batch_sequences // together,
            warmup=round(recipe.warmup_fraction * recipe.steps),
            table=TABLE,
            lines="\n".join(lines),
            version=flashnas.__version__,
        )
        write_synced(fresh / CARD, card)
    return networks


if __name__ == "__main__":
    try:
        for trained in export_trainings(sys.argv[1], Path(sys.argv[2])):
            print(trained.notation)
    except IndexError:
        sys.exit("usage: short_trainings.py RUN OUT")
    except flashnas.FlashnasError as error:
        sys.exit(str(error))

import dataclasses
import json
import math
import os
import time

import numpy as np
import pytest
from cases import cases
from offenders import every

from flashnas.base.errors import CorpusError
from flashnas.data import dataset as dataset_module
from flashnas.data import tokenizer as tokenizer_module
from flashnas.data.corpus import Corpus
from flashnas.data.dataset import Dataset, prepare_dataset
from flashnas.data.tokenizer import SpecialTokens, train_tokenizer
from flashnas.training.recipe import Recipe

RECIPE = Recipe(
    vocab=300,
    sequence_tokens=16,
    batch_sequences=2,
    tokens=320,
    validation_tokens=64,
    curve_tokens=32,
)


@pytest.fixture
def folder(tmp_path):
    """Forty short documents of a made-up language."""
    rng = np.random.default_rng(0)
    words = ["lorem", "ipsum", "dolor", "sit", "amet", "ça"]
    text = tmp_path / "text"
    text.mkdir()
    for i in range(40):
        (text / f"{i:02}.txt").write_text(
            f"{i}: " + " ".join(rng.choice(words, 60)), encoding="utf-8"
        )
    return text


@pytest.fixture
def prepare(folder, tmp_path):
    """`prepare_dataset` of the folder with a cache of its own."""

    def call(recipe=RECIPE, source=folder, **more):
        return prepare_dataset(str(source), recipe, **{"cache": tmp_path / "c", **more})

    return call


def test_decoding_gives_the_text_back(folder, prepare):
    texts = [path.read_text() for path in sorted(folder.iterdir())]
    held_out = texts[9::10]
    tokenizer = train_tokenizer([text for text in texts if text not in held_out], 300)
    data = prepare()
    decoded = tokenizer.decode(data.validation.tolist(), skip_special_tokens=False)
    assert decoded.split("<|endoftext|>") == [*held_out, ""]
    assert data.vocab == 300
    assert data.validation_bytes == sum(len(text.encode()) for text in held_out)
    assert data.train.dtype == np.uint16
    assert isinstance(data.train, np.memmap)


def test_a_second_call_trains_and_encodes_nothing(folder, prepare, tmp_path, monkeypatch):
    first = prepare()
    monkeypatch.setattr(tokenizer_module, "train_tokenizer", None)
    monkeypatch.setattr(dataset_module, "_encode", None)
    monkeypatch.setenv("FLASHNAS_CACHE", str(tmp_path / "c"))
    second = prepare_dataset(str(folder), RECIPE)
    assert second.folder == first.folder
    assert np.array_equal(second.train, first.train)


def test_text_and_vocabulary_are_the_cache_key(folder, prepare):
    first = prepare()
    other_vocab = prepare(dataclasses.replace(RECIPE, vocab=310))
    (folder / "00.txt").write_text("something else entirely " * 20)
    other_text = prepare()
    assert len({first.folder, other_vocab.folder, other_text.folder}) == 3


def test_a_cache_that_cannot_be_written_is_said_before_the_text_is_read(
    prepare, tmp_path, monkeypatch
):
    (tmp_path / "home").write_text("a file")
    monkeypatch.setattr(dataset_module, "read_corpus", None)
    with pytest.raises(CorpusError, match=r"cannot cache data in .*home/c/tokenizers"):
        prepare(cache=tmp_path / "home" / "c")


def test_a_damaged_cache_is_made_again(folder, prepare, tmp_path):
    data = prepare()
    expected = np.array(data.train)
    (data.folder / "train.npy").write_bytes(b"\x93NUMPY cut")
    for saved in (tmp_path / "c" / "tokenizers").iterdir():
        saved.write_text("{")
    with pytest.raises(CorpusError, match="not a prepared dataset"):
        Dataset.open(data.folder)
    assert np.array_equal(prepare().train, expected)


def test_a_given_tokenizer_is_used(prepare, tmp_path):
    given = train_tokenizer(["abc abc"], 260)
    given.save(str(tmp_path / "tokenizer.json"))
    plain = prepare(tokenizer=tmp_path / "tokenizer.json")
    assert plain.vocab == len(given.get_vocab())
    assert not list((tmp_path / "c" / "tokenizers").glob("*"))
    # truncation, padding and dropout do not change the text
    given.model.dropout = 0.5
    given.enable_truncation(8)
    given.enable_padding(length=10**10)
    given.save(str(tmp_path / "tokenizer.json"))
    other = prepare(tokenizer=tmp_path / "tokenizer.json")
    assert (other.digest, other.tokenizer_json) == (plain.digest, plain.tokenizer_json)


@pytest.mark.parametrize(("changes", "words"), cases("data", "unusable_tokenizers"))
def test_a_tokenizer_that_cannot_be_used_is_one_line(prepare, tmp_path, changes, words):
    """A panic of the library is no Exception."""
    content = json.loads(train_tokenizer(["abc abc"], 260).to_str())
    (tmp_path / "t.json").write_text(json.dumps({**content, **changes}))
    with pytest.raises(CorpusError, match=words):
        prepare(tokenizer=tmp_path / "t.json")
    assert not list((tmp_path / "c").glob("datasets/*"))


def test_other_ends_of_a_process_are_no_errors_of_the_library():
    with pytest.raises(KeyboardInterrupt), tokenizer_module.library_errors("x"):
        raise KeyboardInterrupt


def test_what_is_not_a_regular_file_is_refused_at_once(folder, prepare, tmp_path):
    os.mkfifo(tmp_path / "fifo.txt")
    with pytest.raises(CorpusError, match=r"fifo\.txt: must be a regular file; got a FIFO"):
        prepare(source=tmp_path / "fifo.txt")
    with pytest.raises(CorpusError, match=r"zero: must be a regular file; got a device"):
        prepare(tokenizer="/dev/zero")
    with pytest.raises(CorpusError, match=r"u\.json: cannot be read: No such file"):
        prepare(tokenizer=tmp_path / "u.json")
    data = prepare()
    (data.folder / "meta.json").unlink()
    os.mkfifo(data.folder / "meta.json")
    with pytest.raises(
        CorpusError, match=r"not a prepared dataset: .*must be a regular file; got a FIFO"
    ):
        Dataset.open(data.folder)


@pytest.mark.parametrize(
    "text", ["a" * 400_000, " -" + " " * 400_000 + "-" * 100_000, "ab" * 200_000]
)
def test_words_of_any_length_are_trained_on_in_seconds(prepare, tmp_path, text):
    """BPE training takes time quadratic in the length of a word: over a minute for the first of
    these.
    """
    path = tmp_path / "a.txt"
    path.write_text(text)
    started = time.monotonic()
    with pytest.raises(CorpusError, match="too short: its training part has"):
        prepare(dataclasses.replace(RECIPE, batch_sequences=1000), source=path)
    assert time.monotonic() - started < 20


def test_text_that_is_too_short_says_how_much_is_needed(prepare, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one two three four five six seven eight nine ten eleven twelve thirteen")
    with pytest.raises(
        CorpusError, match=r"too short: its training part has \d+ tokens, one batch needs 33"
    ):
        prepare(source=path)
    path.write_text("x")
    with pytest.raises(CorpusError, match="too short to hold out a tenth"):
        prepare(source=path)


@pytest.mark.parametrize(
    ("changes", "shortage"),
    [
        (
            {"tokens": 401},
            r"its 401 training tokens are 4\.0 epochs of 100, .*hf:NAME, or short_text",
        ),
        (
            {"validation_tokens": 81},
            r"its 81 validation tokens are more than the 80 that are held out; .*hf:NAME, or short_text",
        ),
    ],
)
def test_text_shorter_than_a_recipe_wants_is_refused_unless_the_recipe_accepts_it(
    changes, shortage
):
    data = _numbered()
    data.check_length(dataclasses.replace(RECIPE, tokens=400, validation_tokens=80))
    with pytest.raises(
        CorpusError, match="'numbers' is too short for recipe 'custom': " + shortage
    ):
        data.check_length(dataclasses.replace(RECIPE, **changes))
    data.check_length(dataclasses.replace(RECIPE, **changes, short_text=True))


def _numbered(train=100, validation=80):
    return Dataset(
        folder=None,
        source="numbers",
        vocab=200,
        train=np.arange(train, dtype=np.uint16),
        validation=np.arange(validation, dtype=np.uint16),
        validation_bytes=160,
        notes=(),
    )


def test_bits_per_byte_by_hand():
    # 80 tokens of ln 4 nats are 160 bits, over 160 bytes
    assert _numbered().bits_per_byte(math.log(4)) == pytest.approx(1.0)


def test_an_epoch_visits_disjoint_windows_once_in_an_order_of_its_seed():
    def first(seed, count=3):
        batches = _numbered().batches(RECIPE, seed)
        return np.concatenate([next(batches) for _ in range(count)])

    windows = first(3)  # 99 positions hold six windows of 16
    assert len(set(windows[:, :-1].ravel().tolist())) == 6 * 16
    assert np.array_equal(windows[:, 1:], windows[:, :-1] + 1)
    assert np.array_equal(first(1, 10), first(1, 10))
    assert not np.array_equal(first(1, 10), first(2, 10))


def test_the_validation_slice_spreads_over_the_part():
    rows = _numbered().validation_slice(RECIPE, tokens=32)
    assert rows[:, 0].tolist() == [0, 32]  # four windows of 16 fit, two are asked for
    assert _numbered().validation_slice(RECIPE, tokens=10_000).shape == (4, 17)


def test_no_more_than_some_documents_are_in_memory(prepare, monkeypatch):
    """Three passes over 12,000 documents; what is alive at once is a batch of the encoder's."""

    class Text(str):
        alive, most = 0, 0

        def __init__(self, *_):
            Text.alive += 1
            Text.most = max(Text.most, Text.alive)

        def __del__(self):
            Text.alive -= 1

    class Texts:
        passes = 0

        def __iter__(self):
            Texts.passes += 1
            return (Text(f"document {n} of many words") for n in range(12_000))

    monkeypatch.setattr(
        dataset_module, "read_corpus", lambda source: Corpus(source=source, documents=Texts())
    )
    data = prepare(source="made up")
    assert len(data.train) > 12_000
    assert Texts.passes == 4  # the split, the tokenizer, and the ids of each part
    assert Text.most < 1000


def test_a_tokenizer_is_trained_on_a_part_of_very_much_text(prepare, monkeypatch):
    monkeypatch.setattr(tokenizer_module, "MAX_BYTES", 5000)  # of 12 kB
    seen, real = [], tokenizer_module.train_tokenizer
    monkeypatch.setattr(
        tokenizer_module,
        "train_tokenizer",
        lambda texts, vocab: real(seen.extend(texts) or seen, vocab),
    )
    prepare()
    # every third of those not held out
    assert [text.split(":")[0] for text in seen[:4]] == ["0", "3", "6", "10"]


@every(
    case=[
        ({"eos_token": "<end of sentence>"}, {}, 301),  # of no usual name
        ({"eos_token": "<turn>"}, {"eos_token_id": [300, 0]}, 300),  # beside one of a usual name
        ({}, {"eos_token_id": 301}, 301),
        ({}, {}, 0),
    ]
)
def test_documents_end_with_the_token_that_an_export_states(case, prepare, folder, tmp_path):
    config, generation, end = case
    words = train_tokenizer([path.read_text() for path in folder.iterdir()], 300)
    words.add_special_tokens(["<turn>", "<end of sentence>"])
    file = tmp_path / "tokenizer.json"
    words.save(str(file))
    for name, content in (("tokenizer_config", config), ("generation_config", generation)):
        file.with_name(f"{name}.json").write_text(json.dumps(content))
    data = prepare(tokenizer=file)
    assert int(data.validation[-1]) == end
    assert (data.train == end).sum() == 36
    stated = SpecialTokens.beside(file).keys(words)["eos_token_id"]
    assert (stated if isinstance(stated, int) else stated[0]) == end

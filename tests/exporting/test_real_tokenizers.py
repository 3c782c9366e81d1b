"""Tokenizers and chats of the kinds that real models have: transformers and llama.cpp do with an
export what transformers does with the original.
"""

import json

import pytest

pytest.importorskip("transformers")
pytest.importorskip("xllamacpp")
pytest.importorskip("gguf")

import gguf
from networks import make_network
from one_line import one_line
from tokenizer_files import KINDS, write_tokenizer_files
from tokenizers import Regex
from tokenizers import pre_tokenizers as pre
from transformers import AutoTokenizer

from flashnas.base.errors import CorpusError, ExportError
from flashnas.data.tokenizer import SpecialTokens
from flashnas.exporting.exporter import export_network
from flashnas.exporting.gguf import CHAT, TEXTS
from flashnas.exporting.source import Source
from flashnas.families.gguf import vocabulary

PRE = {"smollm2": "smollm", "qwen3": "qwen2", "smollm3": "smaug-bpe"}
NOTATION = "64(vocab=350): 2x(a(head_dim=16,kv_heads=2) f)"


@pytest.fixture
def exported(tmp_path):
    """Writes tokenizer files of a kind, and exports a network with them."""

    def export(kind, target, change=None):
        folder = tmp_path / "source"
        folder.mkdir()
        words, special = write_tokenizer_files(kind, folder)
        if change is not None:
            special = change(words, special) or special
        source = Source(make_network(NOTATION), words, "test", special=special)
        options = {"type": "f32"} if target == "gguf" else {}
        export_network(source, target, tmp_path / "out", options=options)
        return words, AutoTokenizer.from_pretrained(folder), tmp_path / "out"

    return export


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_keeps_tokens_chat_and_ends(kind, exported, tmp_path):
    words, original, out = exported(kind, "hf")
    found = AutoTokenizer.from_pretrained(out)
    for text in TEXTS:
        assert found(text).input_ids == original(text).input_ids == words.encode(text).ids
    assert found.special_tokens_map == original.special_tokens_map
    assert found.apply_chat_template(CHAT) == original.apply_chat_template(CHAT)
    ends = [words.token_to_id(end) for end in KINDS[kind][3]]
    assert json.loads((out / "config.json").read_text())["eos_token_id"] in (ends, ends[0])
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation["eos_token_id"] in (ends, ends[0])
    assert generation["temperature"] == 0.6
    assert "auto_map" not in json.loads((out / "tokenizer_config.json").read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_cuts_texts_alike_and_ends_chats(kind, exported):
    """The gate has compared tokens and asked for the ends."""
    _, original, out = exported(kind, "gguf")
    reader = gguf.GGUFReader(out / "model.gguf")
    assert reader.get_field("tokenizer.ggml.pre").contents() == PRE.get(kind, "llama-bpe")
    assert reader.get_field("tokenizer.chat_template").contents() == original.chat_template


def with_ends(*names):
    """A change: these tokens of the vocabulary end a text, too."""

    def change(words, special):
        ids = [words.token_to_id(name) for name in ("<|im_end|>", *names)]
        return SpecialTokens(special.config, {"eos_token_id": ids})

    return change


def test_further_ends_are_written_as_far_as_there_are_keys(exported):
    message = one_line(ExportError, exported, "qwen3", "gguf", with_ends("!", "#", "%"))
    assert message == "llama.cpp does not end a text at %"


def own_splits(words, special):
    bytes_ = pre.ByteLevel(add_prefix_space=False, use_regex=False)
    words.pre_tokenizer = pre.Sequence([pre.Split(Regex("a+"), "isolated"), bytes_])


def test_a_pre_tokenizer_that_llama_cpp_lacks_is_refused(exported):
    message = one_line(ExportError, exported, "llama3", "gguf", own_splits)
    assert "with the pre-tokenizer of gpt-2, smollm, " in message
    assert message.endswith("; got BPE with a+ and ByteLevel pre-tokenizer")


def test_a_file_that_llama_cpp_cuts_otherwise_is_refused(exported, monkeypatch):
    rules = {"smaug-bpe": vocabulary.PRE_TOKENIZERS["llama-bpe"]}  # where merges make all words
    monkeypatch.setattr(vocabulary, "PRE_TOKENIZERS", rules)
    message = one_line(ExportError, exported, "llama3", "gguf")
    assert "llama.cpp cuts a text into other tokens than the tokenizer: 'The state" in message


def test_a_damaged_file_beside_the_tokenizer_is_one_line(tmp_path):
    (tmp_path / "generation_config.json").write_text("[]")
    message = one_line(CorpusError, SpecialTokens.beside, tmp_path / "tokenizer.json")
    assert message.endswith("generation_config.json: must be a mapping; got list")


@pytest.mark.parametrize("wrong", [1.0, True, [1.0, True, "1", None, [1]], "1", {"a": 1}])
def test_an_id_that_is_no_whole_number_is_no_token(wrong, tmp_path):
    words, special = write_tokenizer_files("qwen3", tmp_path)
    special = SpecialTokens(special.config, {"eos_token_id": wrong})
    assert special.ids(words, "eos") == [words.token_to_id("<|im_end|>")]


@pytest.mark.parametrize("wrong", [99999, True, 1.0])
def test_an_id_that_is_no_token_does_not_leave(wrong, exported):
    def change(words, special):
        return SpecialTokens(special.config, {"eos_token_id": wrong, "temperature": 0.6})

    words, _, out = exported("qwen3", "hf", change)
    for name in ("config.json", "generation_config.json"):
        said = json.loads((out / name).read_text())["eos_token_id"]
        assert (type(said), said) == (int, words.token_to_id("<|im_end|>"))

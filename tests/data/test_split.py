import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashnas.base.errors import CorpusError
from flashnas.data.split import split_documents

documents = st.lists(st.text(alphabet="ab \n", max_size=30), max_size=40)


@given(documents)
def test_the_parts_are_the_distinct_documents(texts):
    split = split_documents(texts)
    train, validation = (
        {text.strip() for text in part} for part in (split.train, split.validation)
    )
    assert not train & validation
    distinct = {text.strip() for text in texts} - {""}
    assert split.duplicates == sum(bool(text.strip()) for text in texts) - len(distinct)
    if len(distinct) >= 10:
        assert train | validation == distinct
        assert len(split.validation) == len(distinct) // 10
    for part in (split.train, split.validation):
        encoded = [text.encode() for text in part]
        assert part.digests == b"".join(hashlib.sha256(text).digest() for text in encoded)
        assert (part.size, len(part)) == (sum(map(len, encoded)), len(encoded))


def test_a_single_file_keeps_its_last_tenth_for_validation():
    text = " ".join(f"word{i}" for i in range(2000))
    split = split_documents([text])
    assert "".join([*split.train, *split.validation]) == text
    assert 0.09 < len("".join(split.validation)) / len(text) < 0.12
    assert next(iter(split.train)).endswith(" ")


def test_next_to_no_text_gives_an_empty_part_not_an_overlap():
    assert tuple(split_documents(["a"]).validation) == ()
    assert tuple(split_documents([" ", ""]).train) == ()


@pytest.mark.parametrize("change", [list.pop, lambda texts: texts.append("more")])
def test_a_corpus_that_changes_between_two_passes_is_an_error(change):
    texts = [f"document {n}" for n in range(30)]
    split = split_documents(texts)
    change(texts)
    with pytest.raises(CorpusError, match="the corpus changed while it was read"):
        list(split.train)

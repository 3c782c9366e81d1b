from hypothesis import given
from hypothesis import strategies as st

from flashnas.data.split import split_documents

documents = st.lists(st.text(alphabet="ab \n", max_size=30), max_size=40)


@given(documents)
def test_no_document_is_on_both_sides(texts):
    split = split_documents(texts)
    assert not {t.strip() for t in split.train} & {v.strip() for v in split.validation}


@given(documents)
def test_the_parts_are_the_distinct_documents(texts):
    distinct = {text.strip() for text in texts} - {""}
    split = split_documents(texts)
    assert split.duplicates == sum(bool(text.strip()) for text in texts) - len(distinct)
    if len(distinct) >= 10:
        assert {text.strip() for text in split.train + split.validation} == distinct
        assert len(split.validation) == len(distinct) // 10


@given(st.integers(10, 60))
def test_every_tenth_document_is_held_out(count):
    texts = [f"document {i}" for i in range(count)]
    assert list(split_documents(texts).validation) == texts[9::10]


@given(st.text(alphabet="abcde \n", min_size=20, max_size=3000).filter(str.strip))
def test_one_document_is_cut_once_at_its_tail(text):
    split = split_documents([text])
    joined = "".join(split.train + split.validation)
    assert text.startswith("".join(split.train)) or not split.train
    assert joined in text
    assert len(split.validation) <= 1


def test_a_single_file_keeps_its_last_tenth_for_validation():
    text = " ".join(f"word{i}" for i in range(2000))
    split = split_documents([text])
    assert split.train[0] + split.validation[0] == text
    assert 0.09 < len(split.validation[0]) / len(text) < 0.12
    assert split.train[0].endswith(" ")


def test_a_repeated_document_never_crosses_the_cut():
    split = split_documents(["x", "y", "x " * 5, "x"])
    assert split.duplicates == 1
    assert not {t.strip() for t in split.train} & {v.strip() for v in split.validation}


def test_next_to_no_text_gives_an_empty_part_not_an_overlap():
    assert split_documents(["a"]).validation == ()
    assert split_documents([" ", ""]).train == ()

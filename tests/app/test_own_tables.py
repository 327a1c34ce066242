"""Your own tables: what is in the file is trained on, or an error says what to do."""

import pandas as pd
import pytest

from tests.app.files import (
    GOOD,
    RIGHT,
    everything,
    own_pairs,
    tables_of,
    text_task,
    write_text,
)
from tests.app.tiny import write_jsonl

pytestmark = pytest.mark.usefixtures("cache")


def test_row_4_a_csv_row_wider_than_its_header_is_named(tmp_path):
    path = write_text(
        tmp_path / "x.csv", 'text,label\n"a\nb",0\nI loved it, number 1,1\n'
    )
    expected = "line 4 of data file 'x.csv' must have 2 fields .* got 3: put fields"
    with pytest.raises(ValueError, match=expected):
        tables_of(path)
    with pytest.raises(ValueError, match=expected):
        own_pairs(path, classes=2)


def test_row_4_a_csv_row_wider_than_its_header_in_every_row(tmp_path):
    """Where pandas takes the first field of all rows for an index."""
    path = write_text(tmp_path / "x.csv", "text,label\na,good,1\nb,bad,0\n")
    with pytest.raises(ValueError, match="line 2 of .* 2 fields .* got 3"):
        own_pairs(path, classes=2)


def test_row_4_a_csv_row_narrower_than_its_header_is_named(tmp_path):
    path = write_text(tmp_path / "x.csv", "text,label\ngood,1\nbad\n")
    with pytest.raises(ValueError, match="line 3 of .* 2 fields .* got 1"):
        own_pairs(path, classes=2)


WORDS = ["null", "None", "NA", "nan", "N/A", "NULL", "#N/A", "NaN", "n/a", "<NA>"]


def test_row_5_words_that_mean_nothing_to_a_library_are_words(tmp_path):
    path = write_text(
        tmp_path / "x.csv",
        "text,label\n" + "".join(f"{word},{word}\n" for word in WORDS),
    )
    given = own_pairs(path, class_names=",".join(WORDS))
    assert given == [(word, number) for number, word in enumerate(WORDS)]


def test_row_5_only_an_empty_cell_is_empty(tmp_path):
    path = write_text(tmp_path / "x.csv", 'text,label\n,1\n"",0\nNA,1\n')
    assert own_pairs(path, classes=2) == [("", 1), ("", 0), ("NA", 1)]
    write_text(path, "text,label\na,0\nb,1\nc,\n")
    expected = "row 2 .* of label-column 'label' .* an empty cell: every row needs a"
    with pytest.raises(ValueError, match=expected):
        own_pairs(path, classes=2)
    with pytest.raises(ValueError, match=expected):
        tables_of(path)


def test_empty_texts_are_counted_in_the_log(tmp_path, bert, caplog):
    # Rows of a file that calls the column otherwise, for instance.
    rows = [{"text": "cat", "label": 1}, {"Text": "dog", "label": 0}]
    write_jsonl(tmp_path / "x.jsonl", rows)
    task = text_task(bert, tmp_path / "x.jsonl", validation_fraction=0.0)
    everything(task.data.partition(0, 1))
    assert "1 of 2 texts are empty (text)" in caplog.text


def test_texts_that_may_be_cut_are_counted_in_the_log(tmp_path, bert, caplog):
    caplog.set_level("INFO", logger="flwr")
    rows = [{"text": text, "label": 1} for text in ("cat", "cat dog", "cat " * 9)]
    write_jsonl(tmp_path / "x.jsonl", rows)
    # With the two tokens around a text.
    settings = {"validation_fraction": 0.0, "max_length": 4, "classes": 2}
    task = text_task(bert, tmp_path / "x.jsonl", **settings)
    everything(task.data.partition(0, 1))
    line = "2 of 3 texts fill max-length (4 tokens); longer ones are cut"
    assert line in caplog.text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('text,label\n"open,1\nbad,0\n', "begins in line 2 .* quotes in pairs"),
        ('text,label\ngood,1\n"a" b,0\n', "begins in line 3 .* quotes in pairs"),
        ("text;label\ngood;1\n", "has 1 .*separated by commas"),
        ("text,label,text\na,1,b\n", "(?s)same name twice.*text, label, text"),
        ("good,1\nbad,0\n", "(?s)columns of the data, which has 2.*good, 1"),
        ("\ufefftext,label\n", "must have rows, got none in"),
    ],
)
def test_what_is_wrong_with_a_csv_file_is_one_sentence(tmp_path, content, expected):
    path = write_text(tmp_path / "x.csv", content)
    with pytest.raises(ValueError, match=expected) as raised:
        own_pairs(path, classes=2)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"text": "a"\n', "line 1 of .* one object a line"),
        ('{"text": "a", "label": 1}\n[1]\n', "line 2 of .* an object such as"),
        ('{"text": "a", "label": 1, "label": 0}\n', "line 1 .* same name twice"),
        ('{"text": "\\ud800", "label": 1}\n', "row 0 of .* half of a surrogate pair"),
        ('[{"text": "a", "label": 1}, 2]', "row 1 of .* an object such as"),
        ('{"text": ["a"], "label": 1}\n', "text-column .* text"),
    ],
)
def test_what_is_wrong_with_a_json_file_is_one_sentence(
    tmp_path, bert, content, expected
):
    path = write_text(tmp_path / "x.json", content)
    task = text_task(bert, path, classes=2)
    with pytest.raises(ValueError, match=expected) as raised:
        task.data.local_examples(str(path))
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_file_in_another_encoding_is_named_with_its_line(tmp_path, encoding, kind):
    line = "café,1" if kind == "csv" else '{"text": "café", "label": 1}'
    path = write_text(tmp_path / f"x.{kind}", f"text,label\n{line}\n", encoding)
    line = 1 if encoding == "utf-16" else 2
    with pytest.raises(ValueError, match=f"UTF-8 text, got other bytes in line {line}"):
        own_pairs(path, classes=2)


def test_a_damaged_parquet_file_is_named(tmp_path):
    pd.DataFrame({"text": ["a"], "label": [1]}).to_parquet(tmp_path / "whole.parquet")
    path = tmp_path / "x.parquet"
    path.write_bytes((tmp_path / "whole.parquet").read_bytes()[:-20])
    with pytest.raises(ValueError, match="'x.parquet' must be a whole .parquet file"):
        own_pairs(path, classes=2)


def test_what_files_of_this_kind_often_have_is_read(tmp_path):
    """A byte order mark, an index without a name, spaces, old line ends, capitals."""
    for name, content, encoding in (
        ("mark.csv", GOOD, "utf-8-sig"),
        ("index.csv", ",text,label\n0,good,1\n1,bad,0\n", "utf-8"),
        ("spaces.csv", "text, label\ngood, 1\nbad, 0\n", "utf-8"),
        ("lines.csv", GOOD.replace("\n", "\r"), "utf-8"),
        ("blank.csv", "\n\ntext, label\n\ngood,1\n\nbad,0\n\n", "utf-8"),
        ("CAPITALS.CSV", GOOD, "utf-8"),
        ("long.csv", f"text,label,more\ngood,1,{'x' * 300_000}\nbad,0,\n", "utf-8"),
        ("array.json", '[{"text": "good", "label": 1},{"text":"bad","label":0}]', ""),
    ):
        path = write_text(tmp_path / name, content, encoding or "utf-8")
        assert own_pairs(path, classes=2) == RIGHT, name


def test_texts_that_look_like_something_else_stay_texts(tmp_path):
    for texts in (["2020-01-01", "2021-01-01T00:00:00"], ["007", "7"], ["1.0", "1"]):
        rows = [{"text": text, "label": 1} for text in texts]
        path = write_jsonl(tmp_path / "x.jsonl", rows)
        assert [text for text, _ in own_pairs(path, classes=2)] == texts
        pd.DataFrame(rows).to_csv(tmp_path / "x.csv", index=False)
        given = own_pairs(tmp_path / "x.csv", classes=2)
        assert [text for text, _ in given] == texts


def test_json_values_of_several_types_are_text_as_in_a_csv_file(tmp_path):
    """Also where another type comes after more rows than are looked at once."""
    rows = [{"text": "t", "label": n % 2} for n in range(10_050)]
    rows += [{"text": 5, "label": "1"}, {"text": None, "label": 0, "meta": [1]}]
    rows += [{"text": "t", "label": 1, "meta": "one"}]
    path = write_jsonl(tmp_path / "x.jsonl", rows)
    assert own_pairs(path, classes=2)[-3:] == [("5", 1), ("", 0), ("t", 1)]


@pytest.mark.parametrize("user", ["labels", "label", "input_ids", "text"])
def test_columns_may_have_the_names_of_inputs(tmp_path, bert, user):
    columns = ["text", "label", "labels", "input_ids", "image"]
    path = write_text(
        tmp_path / "x.csv", f"{','.join(columns)}\ncat,1,9,8,a\ndog,0,9,7,b\n"
    )
    settings = {"partitioner": "natural-id", "validation_fraction": 0.0}
    task = text_task(bert, path, user_column=user, **settings)
    assert everything(task.data.partition(0, 1))["labels"].numel() == (
        2 if user == "labels" else 1
    )


def test_a_column_of_a_type_that_cannot_be_read_is_named(tmp_path):
    ages = pd.arrays.IntervalArray.from_breaks([0, 30, 90])
    frame = pd.DataFrame({"text": ["a", "b"], "label": [0, 1], "age": ages})
    frame.to_parquet(tmp_path / "x.parquet")
    expected = "(?s)got one of .*interval.*: leave it out.*the column is 'age'"
    with pytest.raises(ValueError, match=expected):
        own_pairs(tmp_path / "x.parquet", classes=2)


def test_a_server_needs_no_training_rows_where_the_devices_have_them(tmp_path, bert):
    write_text(tmp_path / "server" / "test.csv", GOOD)
    task = text_task(bert, tmp_path / "server", classes=2)
    assert len(task.data.test) == 2

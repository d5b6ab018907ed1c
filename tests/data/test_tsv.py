"""The TSV reader on files with the traps that GLUE's own files have."""

import time
from pathlib import Path

import pytest
from glue_files import layout_of

from pkd_tune.config import Task, UserError
from pkd_tune.data.examples import RawSplit
from pkd_tune.data.glue import TASKS
from pkd_tune.data.tsv import parse_tsv

MRPC, RTE, COLA = TASKS["MRPC"], TASKS["RTE"], TASKS["CoLA"]


def read_tsv(task: Task, path: Path, split: str) -> RawSplit:
    raw, problems = parse_tsv(task, path, task.split(split))
    if problems:
        raise UserError(*problems)
    return raw


def tsv_problems(task: Task, path: Path, split: str) -> list[str]:
    return parse_tsv(task, path, task.split(split))[1]


MRPC_HEADER = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "train.tsv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("final", [True, False], ids=["final newline", "no final newline"])
def test_bytes_around_the_rows_do_not_matter(tmp_path: Path, mark: bytes, line_end: str, final: bool) -> None:
    text = f"{MRPC_HEADER}1\t7\t8\tfirst\tsecond\n0\t9\t10\tthird\tfourth" + "\n" * final
    raw = read_tsv(MRPC, written(tmp_path, mark + text.replace("\n", line_end).encode()), "train")
    assert raw.sentence1 == ["first", "third"]
    assert raw.sentence2 == ["second", "fourth"]
    assert raw.labels == [1, 0]


def test_a_quote_is_a_letter_and_swallows_nothing(tmp_path: Path) -> None:
    rows = '1\t1\t2\t"An open quote\tand "more\n0\t3\t4\t""\tclosed"\n1\t5\t6\tplain\tplain\n'
    raw = read_tsv(MRPC, written(tmp_path, MRPC_HEADER + rows), "train")
    assert raw.sentence1 == ['"An open quote', '""', "plain"]
    assert raw.sentence2 == ['and "more', 'closed"', "plain"]


def test_only_line_feeds_end_rows(tmp_path: Path) -> None:
    # U+0085, U+2028, form feed and a lone carriage return end a line for str.splitlines.
    sentence = "a\u0085b\u2028c\x0cd\re"
    raw = read_tsv(COLA, written(tmp_path, f"src\t1\t\t{sentence}\nsrc\t0\t*\tnext\n"), "train")
    assert raw.sentence1 == [sentence, "next"]


def test_spaces_in_sentences_are_kept(tmp_path: Path) -> None:
    raw = read_tsv(TASKS["SST-2"], written(tmp_path, "sentence\tlabel\n hide new secretions \t0\n"), "train")
    assert raw.sentence1 == [" hide new secretions "]


def test_cola_has_no_header_in_train_but_has_one_in_test(tmp_path: Path) -> None:
    raw = read_tsv(COLA, written(tmp_path, "gj04\t1\t\tFirst row.\ngj04\t0\t*\tRow second.\n"), "train")
    assert (raw.sentence1, raw.sentence2, raw.labels) == (["First row.", "Row second."], None, [1, 0])
    raw = read_tsv(COLA, written(tmp_path, "index\tsentence\n0\tFirst row.\n"), "test")
    assert (raw.sentence1, raw.sentence2, raw.labels) == (["First row."], None, None)
    assert len(raw) == 1


def test_rte_labels_are_words_with_the_hubs_ids(tmp_path: Path) -> None:
    text = "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tnot_entailment\n1\tc\td\tentailment\n"
    assert read_tsv(RTE, written(tmp_path, text), "dev").labels == [1, 0]


def test_row_problems_name_file_line_and_what_would_be_right(tmp_path: Path) -> None:
    path = written(tmp_path, MRPC_HEADER + "1\t1\t2\ta\tb\n1\t1\t2\ta\nyes\t1\t2\ta\tb\n\n")
    with pytest.raises(UserError) as caught:
        read_tsv(MRPC, path, "train")
    assert caught.value.problems == (
        f"{path}:3: 4 columns, but MRPC needs at least 5",
        f"{path}:4: label 'yes' is not one of MRPC's: 0, 1",
        f"{path}:5: 1 columns, but MRPC needs at least 5",
    )


def test_rows_without_header_count_from_line_1(tmp_path: Path) -> None:
    path = written(tmp_path, "src\t2\t\tsentence\n")
    assert tsv_problems(COLA, path, "train") == [f"{path}:1: label '2' is not one of CoLA's: 0, 1"]


@pytest.mark.parametrize("label", ["5.001", "-0.1", "0_1", "nan", "inf", "", "high"])
def test_a_label_outside_the_range_of_a_regression_is_refused(tmp_path: Path, label: str) -> None:
    task = TASKS["STS-B"]
    header = "\t".join(layout_of(task, "dev").header or ())
    row = "0\tgenre\tfile\t2012\t1\tnone\tnone\ta\tb\t"
    path = written(tmp_path, f"{header}\n{row}5.000\n{row}{label}\n")
    assert tsv_problems(task, path, "dev") == [f"{path}:3: label {label!r} is not one of STS-B's: numbers from 0 to 5"]


def test_regression_labels_are_as_precise_as_the_hubs(tmp_path: Path) -> None:
    task = TASKS["STS-B"]
    header = "\t".join(layout_of(task, "dev").header or ())
    rows = "".join(f"{i}\tg\tf\ty\t1\tn\tn\tfirst\tsecond\t{label}\n" for i, label in enumerate(("0", "3.8", "5.000")))
    raw = read_tsv(task, written(tmp_path, f"{header}\n{rows}"), "dev")
    assert raw.labels == [0.0, 3.799999952316284, 5.0]
    assert (raw.sentence1[0], (raw.sentence2 or [""])[0]) == ("first", "second")


def test_broken_rows_of_qqp_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The published files have rows that a line end inside a question cuts in two; the hub's dataset lacks them. Of the
    test split, whose predictions must be complete, none may be left out."""
    task = TASKS["QQP"]
    header = "\t".join(layout_of(task, "train").header or ())
    path = written(tmp_path, f"{header}\n1\t2\t3\ta ?\tb ?\t1\n4\t5\t6\tcut\nhere ?\td ?\t0\n7\t8\t9\te ?\tf ?\t0\n")
    with caplog.at_level("INFO"):
        raw = read_tsv(task, path, "train")
    assert (raw.sentence1, raw.labels) == (["a ?", "e ?"], [1, 0])
    assert f"note: {path}: 2 rows with too few columns are left out" in caplog.text
    path = written(tmp_path, "id\tquestion1\tquestion2\n0\ta ?\tb ?\n1\tcut\n")
    assert tsv_problems(task, path, "test") == [f"{path}:3: 2 columns, but QQP needs at least 3"]


@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_tab_in_a_question_does_not_make_the_label_of_another_piece(tmp_path: Path, split: str) -> None:
    task = TASKS["QQP"]
    header = "\t".join(layout_of(task, split).header or ())
    path = written(tmp_path, f"{header}\n1\t2\t3\ta ?\tb ?\t1\n4\t5\t6\ta ?\twhat is 2 to the\t0\t1\n")
    assert tsv_problems(task, path, split) == [f"{path}:3: 7 columns, but QQP needs 6"]


def test_the_columns_of_mnli_differ_by_split(tmp_path: Path) -> None:
    task = TASKS["MNLI"]
    for split, cells in (("train", 12), ("dev", 16), ("dev_mm", 16), ("test", 10), ("test_mm", 10)):
        header = "\t".join(layout_of(task, split).header or ())
        row = [*map(str, range(8)), "premise", "hypothesis", *["neutral"] * (cells - 10)]
        if cells > 10:
            row[-1] = "contradiction"  # The gold label, after those of single annotators.
        raw = read_tsv(task, written(tmp_path, header + "\n" + "\t".join(row) + "\n"), split)
        assert (raw.sentence1, raw.sentence2) == (["premise"], ["hypothesis"])
        assert raw.labels == ([2] if cells > 10 else None)


def test_no_more_than_5_problems_of_a_file_are_listed(tmp_path: Path) -> None:
    path = written(tmp_path, "src\t2\t\tsentence\n" * 1205)
    problems = tsv_problems(COLA, path, "train")
    assert len(problems) == 6
    assert problems[-1] == f"{path}: ... and 1,200 more"
    path = written(tmp_path, "src\t2\t\tsentence\n" * 5)
    assert len(tsv_problems(COLA, path, "train")) == 5


@pytest.mark.parametrize("text", ["", "\ufeff", MRPC_HEADER, MRPC_HEADER.strip()])
def test_a_file_without_rows_is_a_problem(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    assert tsv_problems(MRPC, path, "train") == [f"{path} is empty: it has no examples; put MRPC's train split there"]


def test_a_foreign_header_is_one_problem_that_shows_both(tmp_path: Path) -> None:
    path = written(tmp_path, "index\tsentence1\tsentence2\tlabel\n" + "0\ta\tb\tentailment\n" * 9)
    (problem,) = tsv_problems(MRPC, path, "train")
    assert problem.startswith(f"{path}:1: ")
    assert "Quality | #1 ID" in problem
    assert "index | sentence1" in problem


def test_a_missing_file_and_a_folder_in_its_place_are_problems(tmp_path: Path) -> None:
    (problem,) = tsv_problems(MRPC, tmp_path / "dev.tsv", "dev")
    assert problem.startswith(f"{tmp_path / 'dev.tsv'} is missing; put the split there")
    assert "cannot be read" in tsv_problems(MRPC, tmp_path, "dev")[0]


def test_bytes_that_are_not_utf8_are_found_by_line(tmp_path: Path) -> None:
    path = written(tmp_path, b"src\t1\t\tfine\nsrc\t1\t\tcaf\xe9\n")
    assert tsv_problems(COLA, path, "train") == [f"{path}:2: not UTF-8; save the file as UTF-8"]


def test_a_long_file_is_checked_fast(tmp_path: Path) -> None:
    # 400,000 rows must take less than 3 seconds; a tenth of them is enough to see a slow reader.
    path = written(tmp_path, MRPC_HEADER + "1\t702876\t702977\tHow is the life of a student ?\tIs it fine ?\n" * 40_000)
    started = time.perf_counter()
    assert tsv_problems(MRPC, path, "train") == []
    assert time.perf_counter() - started < 0.3 * 3  # A factor of 3 for a busy machine.

"""Phenotype and covariate tables: every format read alike, every fault named in one line."""

import gzip
import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hlmm_scan.cohort import cells
from hlmm_scan.cohort.grammar import Layout, Missing
from hlmm_scan.cohort.line_by_line import parse_lines
from hlmm_scan.cohort.tables import read_table
from hlmm_scan.cohort.words import number, numbers_in_disguise
from hlmm_scan.errors import InputError

ROWS = [("f1", "a", "1.5", "NA"), ("f1", "b", "-2", "3e-7"), ("f2", "a", "0.25", "1e6")]
VALUES = np.array([[1.5, np.nan], [-2, 3e-7], [0.25, 1e6]])


def text(separator="\t", header=("FID", "IID", "height", "bmi"), rows=ROWS, end="\n"):
    return "".join(separator.join(line) + end for line in [header, *rows] if line)


@pytest.fixture
def write(tmp_path):
    def _write(content, name="table.txt"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return _write


def message(path, **options):
    """The one line of the error, without the folder."""
    with pytest.raises(InputError) as error:
        read_table(path, **options)
    line = str(error.value)
    assert "\n" not in line
    assert error.value.exit_code == 2
    return line.replace(f"{path.parent}/", "")


# --- what is accepted ---------------------------------------------------------------------------


@pytest.mark.parametrize("separator", ["\t", ",", " ", "   ", " \t ", ", "])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_separators_and_line_ends(write, separator, end):
    table = read_table(write(text(separator, end=end)))
    assert table.columns == ("height", "bmi")
    assert table.family_id.tolist() == ["f1", "f1", "f2"]
    assert table.individual_id.tolist() == ["a", "b", "a"]
    np.testing.assert_array_equal(table.values, VALUES)
    assert table.values.flags.c_contiguous
    assert table.values.dtype == np.float64
    assert len(table) == 3


@pytest.mark.parametrize(
    "variant",
    [
        "plain",
        "no final newline",
        "blank lines",
        "byte-order mark",
        "gzip",
        "quoted everywhere",
        "quoted ids",
        "leading blanks",
        "trailing blanks",
    ],
)
@pytest.mark.parametrize("separator", ["\t", ",", " "])
def test_variants_of_a_file(write, separator, variant):
    rows = [list(row) for row in ROWS]
    header = ["FID", "IID", "height", "bmi"]
    content = text(separator)
    if variant == "no final newline":
        content = content.rstrip("\n")
    elif variant == "blank lines":
        content = "\n \n" + content.replace("\n", "\n\n  \n")
    elif variant == "byte-order mark":
        content = b"\xef\xbb\xbf" + content.encode()
    elif variant == "gzip":
        content = gzip.compress(content.encode())
    elif variant.startswith("quoted"):
        n = 2 if variant == "quoted ids" else 4
        lines = [[f'"{x}"' for x in line[:n]] + line[n:] for line in [header, *rows]]
        content = text(separator, lines[0], lines[1:])
    elif variant == "leading blanks":
        content = "".join("  " + line for line in content.splitlines(keepends=True))
    elif variant == "trailing blanks":
        content = content.replace("\n", "  \n")
    path = write(content)
    table = read_table(path)
    assert table.columns == ("height", "bmi")
    assert table.family_id.tolist() == ["f1", "f1", "f2"]
    assert table.individual_id.tolist() == ["a", "b", "a"]
    np.testing.assert_array_equal(table.values, VALUES)
    assert table.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("first", ["FID IID", "fid iid", "#FID IID", "Fid #iid"])
def test_header_with_family(write, first):
    table = read_table(write(f"{first} x\n1 2 3\n"))
    assert (table.family_id.tolist(), table.individual_id.tolist()) == (["1"], ["2"])


@pytest.mark.parametrize("first", ["IID", "iid", "#IID"])
def test_header_without_family(write, first):
    table = read_table(write(f"{first} x y\n2 3 4\n"))
    assert table.family_id is None
    assert table.individual_id.tolist() == ["2"]
    assert table.columns == ("x", "y")


def test_headerless(write):
    table = read_table(write("1 01 2.5 NA\n1 002 nan 4\n"))
    assert table.columns == ("phenotype_1", "phenotype_2")
    assert table.individual_id.tolist() == ["01", "002"]
    np.testing.assert_array_equal(table.values, [[2.5, np.nan], [np.nan, 4]])


def test_ids_are_text_whatever_they_look_like(write):
    ids = ["NA", "nan", "0012", "1e5", "true", "é"]
    table = read_table(write("IID\tx\n" + "".join(f"{i}\t{k}\n" for k, i in enumerate(ids))))
    assert table.individual_id.tolist() == ids
    np.testing.assert_array_equal(table.values[:, 0], range(6))


def test_missing_cells(write):
    path = write("IID\tx\n" + "".join(f"{i}\t{x}\n" for i, x in enumerate(
        ["", "NA", "na", "NaN", "nan", "-9", "-9.00", "."]
    )))  # fmt: skip
    table = read_table(path, missing_values=("-9", "."))
    assert np.isnan(table.values).all()
    assert message(path) == (
        "table.txt, line 9, column 'x': '.' is not a number, and usually means missing: "
        "--missing-value=. says so"
    )
    both = write("IID\tx\n1\t-9\n2\t-3\n3\t9\n")
    np.testing.assert_array_equal(
        read_table(both, missing_values=("-9, -3",)).values[:, 0], [np.nan, np.nan, 9]
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings(write, encoding):
    table = read_table(write("IID\tgröße\nMüller\t2\nß\t3\n".encode(encoding)))
    assert table.individual_id.tolist() == ["Müller", "ß"]
    assert table.columns == ("größe",)


def test_marks_where_files_were_put_together(write):
    table = read_table(write(b"\xef\xbb\xbfIID x\n\xef\xbb\xbfa 2\n"))
    assert table.individual_id.tolist() == ["a"]


def test_columns_nobody_asked_for_may_hold_anything(write):
    path = write("IID name x true\n1 Leeds 2 true\n2 3,5 NA false\n")
    table = read_table(path, only=["x", "absent"])
    assert (table.columns, table.unread) == (("x",), ("name", "true"))
    np.testing.assert_array_equal(table.values, [[2], [np.nan]])
    with pytest.raises(InputError, match=r"unknown phenotype 'nane' in .*; did you mean 'name'"):
        table.select(["nane"])


def test_faults_by_column(write):
    table = read_table(write("IID x y\n1 a 2\n2 3 4\n3 b inf\n"), faults_by_column=True)
    assert {name: fault.split(", ", 1)[1] for name, fault in table.faults.items()} == {
        "x": "line 2, column 'x': 'a' (and 1 more cells) is not a number",
        "y": "line 4, column 'y': 'inf' is not finite",
    }


def test_all_faults_are_told_together(write):
    path = write("IID\tx\ty\n1\t.\t2\n1\t3\t4\n3\t\n4\tnone\t4kg\n")
    assert message(path) == (
        "table.txt, line 4: expected 3 tab-separated fields, found 2; line 3: IID '1' occurs "
        "twice (first in line 2); line 2, column 'x': '.' (and 1 more cells) is not a number, and "
        "usually means missing: --missing-value=.,none says so; line 5, column 'y': '4kg' is a "
        "number but for 'kg': write numbers alone"
    )


def test_numbers_are_rounded_alike_with_blanks_behind_them(write):
    digits = "+2.02677105744626723e+185"
    for separator, blank in (("\t", " "), (",", " "), (",", "\t"), (" ", "  ")):
        table = read_table(write(f"IID{separator}x\na{separator}{digits}{blank}\n"))
        assert table.values[0, 0] == float(digits)


def test_quoted_headers_do_not_hide_the_separator(write):
    table = read_table(write('"IID"\t"body weight"\n"1"\t"2"\n'))
    assert table.columns == ("body weight",)


def test_blanks_without_end_are_read_at_once(write):
    assert len(read_table(write(" " * 10**6 + "\nIID x\n" + "\t" * 10**6 + "\n1 2\n"))) == 1
    assert read_table(write('IID,x\n"' + "a" * 200_000 + '",1\n')).values[0, 0] == 1


@pytest.mark.parametrize(
    ("levels", "found"),
    [
        (["45,1", "46,2"], 2),
        (["1.234,5", "refused"], 1),
        (["45y", "46y"], 2),
        (["45 years", "7 months"], 2),
        (["$5", "$6"], 2),
        (["5€", "6 $"], 2),
        (["−5", "５"], 2),
        (["45·1", "٤٥", "٤٥٫٥", "४५"], 4),
        (["1 000", "2 000"], 2),
        (["1.5D+03"], 1),
        (["1A", "1B", "2A"], 0),
        (["1st", "2nd"], 0),
        (["4th", "5th"], 0),
        (["<18", "18-65", ">65"], 0),
        (["2010-01-05", "01.02.2010", "12:30"], 0),
        (["TRUE", "P1", "T2", "Leeds"], 0),
    ],
)
def test_numbers_in_disguise(levels, found):
    assert len(numbers_in_disguise(levels)) == found


def test_quoted_fields_may_hold_the_separator(write):
    table = read_table(write('FID,IID,"weight, kg"\n"Doe, J","x",3\n'))
    assert table.columns == ("weight, kg",)
    assert table.family_id.tolist() == ["Doe, J"]
    table = read_table(write('FID IID x\n"Doe J" y 3\n"" z 4\n'.replace('""', '"q"')))
    assert table.family_id.tolist() == ["Doe J", "q"]


@pytest.mark.parametrize("separator", ["\t", " "])
def test_quotation_marks_within_a_field_belong_to_it(write, separator):
    table = read_table(write(f'IID{separator}x\na"b"{separator}"3"\n'))
    assert table.individual_id.tolist() == ['a"b"']
    assert table.values.tolist() == [[3]]


def test_where_the_parsers_see_other_lines_the_slow_one_decides(write, monkeypatch):
    monkeypatch.setattr(cells, "_parse_fast", lambda *_: ((np.zeros(0, object),), np.zeros((0, 1))))
    assert read_table(write("IID x\n1 2\n")).values.tolist() == [[2]]


def test_tab_separated_names_may_hold_blanks(write):
    assert read_table(write("IID\tbody mass index\n1\t2\n")).columns == ("body mass index",)
    assert read_table(write("FID IID\tbmi\n1 2\t3\n")).columns == ("bmi",)


def test_numbers_are_read_exactly(write):
    numbers = np.random.default_rng(1).normal(size=2000) * 10.0 ** np.arange(-100, 100).repeat(10)
    content = "IID\tx\n" + "".join(f"{i}\t{x!r}\n" for i, x in enumerate(numbers.tolist()))
    np.testing.assert_array_equal(read_table(write(content)).values[:, 0], numbers)


def test_arrays_are_read_only(write):
    table = read_table(write(text()))
    for array in (table.values, table.individual_id, table.select(["bmi"]).values):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_a_file_larger_than_a_block(write, monkeypatch):
    monkeypatch.setattr(cells, "_BLOCK", 16)
    content = "IID\tx\n" + "".join(f"{'i' * (k % 40)}{k}\t{k}\n\n" for k in range(300))
    np.testing.assert_array_equal(read_table(write(content)).values[:, 0], range(300))
    assert message(write(content + "q\n")) == (
        "table.txt, line 602: expected 2 tab-separated fields, found 1"
    )


def test_select(write):
    table = read_table(write(text()))
    chosen = table.select(["bmi", "height"])
    assert chosen.columns == ("bmi", "height")
    np.testing.assert_array_equal(chosen.values, VALUES[:, ::-1])
    path = table.path
    for names, kind, expected in [
        (["heigth"], "phenotype", f"unknown phenotype 'heigth' in {path}; did you mean 'height'?"),
        (["qqq"], "covariate", f"unknown covariate 'qqq' in {path}; it has height, bmi"),
        (["bmi", "bmi"], "phenotype", "phenotype 'bmi' is named twice"),
    ]:
        with pytest.raises(InputError) as error:
            table.select(names, kind)
        assert str(error.value) == expected


# --- what is refused ----------------------------------------------------------------------------

FAULTS = {
    "cell": ("FID IID x y\n\n1 2 3 4\n1 3 5 tall\n", "line 4, column 'y': 'tall' is not a number"),
    "infinite": ("IID x\n\n1 2\n2 -inf\n", "line 4, column 'x': '-inf' is not finite"),
    "overflow": ("IID,x\n1,2\n2,1e999\n", "line 3, column 'x': '1e999' is not finite"),
    "infinite, slowly": ("IID x\ntrue 1\n2 inf\n", "line 3, column 'x': 'inf' is not finite"),
    "truth": ("IID x\n1 2\n2 True\n", "line 3, column 'x': 'True' is not a number"),
    "underscore": ("IID x\n1 1_0\n", "line 2, column 'x': '1_0' is not a number"),
    "decimal comma": (
        "IID\tx\r\n1\t2,5\r\n",
        "line 2, column 'x': '2,5' is a number but for its comma: decimals need a point, "
        "thousands nothing",
    ),
    "short": ("FID,IID,x\n1,2,3\n1,3\n", "line 3: expected 3 comma-separated fields, found 2"),
    "long": ("FID IID x\n\n1 2 3 4\n", "line 3: expected 3 fields, found 4"),
    "trailing tab": ("IID\tx\n1\t2\t\n", "line 2: expected 2 tab-separated fields, found 3"),
    "short, slowly": ("IID x\ntrue 1\n2\n", "line 3: expected 2 fields, found 1"),
    "quote": ('IID,x\n1,2\n"3,4\n5,6\n', "line 3: a quotation mark is not closed"),
    "last quote": ('IID,x\n1,2\n3,4"\n', "line 3: a quotation mark is not closed"),
    "no header": (
        "name group x\n1 2 3\n",
        "line 1: expected a header 'FID IID name…' or 'IID name…', or data 'FID IID value…'; "
        "found 'name group x'",
    ),
    "two fields": (
        "1 2\n1 3\n",
        "line 1: expected a header 'FID IID name…' or 'IID name…', or data 'FID IID value…'; "
        "found '1 2'",
    ),
    "FID alone": ("FID x\n1 2\n", "line 1: in the header, FID must be followed by IID"),
    "IID FID": (
        "IID FID x\n1 2 3\n",
        "line 1: column 'FID' is out of place; a header begins 'FID IID' or 'IID'",
    ),
    "empty FID": ("FID\tIID\tx\n1\t1\t1\n\t2\t3\n", "line 3: the FID is empty"),
    "empty IID": ("IID,x\n,1\n", "line 2: the IID is empty"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_with_a_line(write, fault):
    content, expected = FAULTS[fault]
    assert message(write(content)) == f"table.txt, {expected}"


WHOLE = {
    "empty": ("", "table.txt is empty"),
    "blank": ("\n \n\t\n", "table.txt is empty"),
    "no people": ("FID IID x\n", "table.txt has a header but no people"),
    "no people, no newline": ("IID x", "table.txt has a header but no people"),
    "no columns": ("FID IID\n1 2\n", "table.txt has no data columns"),
    "same name": ("IID x y x\n1 2 3 4\n", "table.txt: two columns are named 'x'"),
    "no name": ("IID\tx\t\n1\t2\t3\n", "table.txt: data column 2 has no name"),
    "same IID": (
        "IID x\n1 2\n\n1 3\n",
        "table.txt, line 4: IID '1' occurs twice (first in line 2)",
    ),
    "same person": (
        "FID IID x\nf 1 2\ng 1 2\nf 1 3\n",
        "table.txt, line 4: FID 'f' IID '1' occurs twice (first in line 2)",
    ),
    "binary": (b"l\x1b\x01\0\0", "table.txt is not a text file"),
    "latin": (
        b"IID x\n1 2\nM\xfcller 3\n",
        "table.txt, line 3: not text in UTF-8; if it is in latin-1, iconv -f latin1 -t utf8 makes "
        "it so",
    ),
    "half UTF-16": ("IID x\n1 2\n".encode("utf-16")[:-1], "table.txt is not a text file"),
    "half gzip": (
        gzip.compress(b"IID x\n1 2\n")[:-6],
        "table.txt: the gzip data are damaged or truncated",
    ),
}


@pytest.mark.parametrize("fault", WHOLE)
def test_faults_of_the_whole_file(write, fault):
    content, expected = WHOLE[fault]
    assert message(write(content)) == expected


def test_long_first_lines_are_cut(write):
    assert message(write("x " * 500)).endswith("…'")


def test_files_that_cannot_be_read(tmp_path):
    assert message(tmp_path / "absent.tsv") == "absent.tsv: no such file"
    assert "cannot be read" in message(tmp_path)


# --- the two readers agree ----------------------------------------------------------------------

CELL = st.one_of(
    st.floats().map(repr),
    st.integers(-99, 99).map(str),
    st.sampled_from(
        [
            "",
            "NA",
            "nAn",
            "x",
            "1e5",
            "+.5",
            "5.",
            "1 2",
            "-9",
            "-9.0",
            "1e999",
            "-nan",
            " 7 ",
            '"5"',
            'a"b"',
        ]
    ),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.lists(CELL, min_size=2, max_size=4), min_size=1, max_size=5),
    st.sampled_from(["\t", ",", " "]),
    st.integers(0, 3),
)
def test_fast_and_slow_reading_agree(rows, separator, blank):
    body = "".join(
        separator.join([f"i{k}", *row]) + "\n" + "\n" * (blank == k) for k, row in enumerate(rows)
    ).encode()
    names = ("x", "y", "z")[: len(rows[0])]
    layout = Layout("t", separator, 1, names, 2, tuple(range(len(names))))
    missing = Missing.of(["-9"])

    def outcome(parse):
        try:
            parsed = parse(body, layout, missing)
        except InputError as error:
            return str(error)
        return parsed

    fast, slow = outcome(cells.parse_body), outcome(parse_lines)
    if isinstance(slow, str):
        assert fast == slow
        return
    assert not isinstance(fast, str), fast
    np.testing.assert_array_equal(fast.values, slow.values)
    np.testing.assert_array_equal(fast.lines, slow.lines)
    assert fast.ids[0].tolist() == slow.ids[0].tolist()
    assert (fast.faults, fast.bad_columns) == (slow.faults, slow.bad_columns)


def test_a_number_is_what_any_program_would_read():
    assert number("1.5") == 1.5
    assert all(math.isnan(number(cell)) for cell in ("1_0", "٣", "0x1", "", "true"))


# --- real data ----------------------------------------------------------------------------------


def test_mouse_phenotypes(shared_data):
    table = read_table(shared_data / "mouse" / "pheno.tsv")
    assert table.columns == tuple(f"trait{i}" for i in range(1, 7))
    assert len(table) == 1940
    lines = (shared_data / "mouse" / "pheno.tsv").read_text().splitlines()[1:]
    expected = [[float(x) if x != "NA" else np.nan for x in row.split("\t")[2:]] for row in lines]
    np.testing.assert_array_equal(table.values, expected)
    assert (table.family_id[0], table.individual_id[0]) == ("1_3", "A048005080")

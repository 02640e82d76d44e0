"""Text files of users, read whatever wrote them; and no file of ours read or written by locale."""

from __future__ import annotations

import ast
import gzip
from pathlib import Path

import pytest

import hlmm_scan
from hlmm_scan.errors import InputError
from hlmm_scan.textfiles import decoded, read_lines, read_text

ROOT = Path(hlmm_scan.__file__).parent
TEXT = "Zoë 1\n\nü 2\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("packed", [False, True])
def test_marks_line_ends_and_packing_are_no_part_of_the_text(tmp_path, encoding, end, packed):
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    content = (mark + TEXT.replace("\n", end)).encode(encoding)
    path = tmp_path / "text"
    path.write_bytes(gzip.compress(content) if packed else content)
    assert read_text(path) == TEXT
    assert read_lines(path) == [(1, "Zoë 1"), (3, "ü 2")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "text: No such file or directory"),
        (b"a\nM\xfcller\n", "text, line 2: not text in UTF-8; if it is in latin-1, iconv"),
        (b"a\0b", "text is not a text file"),
        (b"\xff\xfea", "text is not a text file in UTF-16"),
        (gzip.compress(b"abc", mtime=0)[:-3], "text: the gzip data are damaged or truncated"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, content, words):
    path = tmp_path / "text"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_text(path)


def test_a_stream_loses_its_mark_in_the_first_line_only():
    assert decoded(b"\xef\xbb\xbfa\n", 1, Path("x")) == "a\n"
    assert decoded(b"\xef\xbb\xbfa\n", 2, Path("x")) == "\ufeffa\n"
    with pytest.raises(InputError, match="x, line 7: not text in UTF-8"):
        decoded(b"\xff", 7, Path("x"))


def by_locale(source: str) -> list[int]:
    """Lines that open a file as text without naming its encoding."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or {k.arg for k in node.keywords} & {"encoding", None}:
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        modes = [a.value for a in node.args if isinstance(a, ast.Constant)]
        modes += [k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)]
        text_mode = any(isinstance(m, str) and set(m) <= set("rwaxt+") and m for m in modes)
        opens = name in ("open", "fdopen", "NamedTemporaryFile", "TemporaryFile") and text_mode
        whole = owner and name in ("read_text", "write_text") and len(node.args) < 2
        if opens or whole or name == "FileHandler":
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_is_read_or_written_by_the_locale(path):
    assert by_locale(path.read_text(encoding="utf-8")) == []


def test_the_rule_sees_a_breach():
    for source in ("p.read_text()", "p.write_text(x)", "open(p, 'w')", "p.open('rt')"):
        assert by_locale(source) == [1]
    for source in ("p.read_text(encoding='utf-8')", "p.open('rb')", "read_text(p)", "p.open()"):
        assert by_locale(source) == []

"""The page: whole, escaped, offline, and alive in a browser."""

from __future__ import annotations

import html
import importlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from report_results import NASTY_TRAIT, NASTY_VARIANT

import hlmm_scan.report
from hlmm_scan.cli import main
from hlmm_scan.errors import InputError
from hlmm_scan.report.page import write_report
from hlmm_scan.results.inputs import scanned_genotypes
from hlmm_scan.results.store import ResultStore
from hlmm_scan.storage.checksums import Manifest

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Elements, ids and texts of a page; asserts that what is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in self.open[-1:]:
            self.texts.setdefault(tag, []).append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of all elements of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(scanned, tmp_path_factory) -> str:
    """The report of the small scan, p < 0.01 being a hit, which its genotypes tell apart."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(scanned, path, threshold=0.01, genotypes=scanned_genotypes(scanned))
    return path.read_text()


def test_the_page_has_all_its_parts(page):
    read = Page(page)
    assert [h.strip() for h in read.texts["h2"]] == [
        "Overview",
        "trait1",
        NASTY_TRAIT,
        "Which p-value do I use?",
        "What was run",
        "How it ran",
    ]
    assert len(read.of("figure")) == 2 * 6  # with random effects
    ids = [a["id"] for _, a in read.elements if a.get("id")]
    assert len(ids) == len(set(ids))
    links = [a["href"] for a in read.of("a")]
    assert {link[1:] for link in links} <= set(ids)
    cells = [text.strip() for text in read.texts["td"]]
    for words in ("left out: phenotype missing", "498", "HLMM", "mean covariates"):
        assert words in cells


def test_names_are_shown_and_never_markup(page):
    assert NASTY_TRAIT not in page
    assert "<img" not in page
    read = Page(page)
    assert len(read.of("script")) == 1
    assert any(text.startswith(NASTY_VARIANT) for text in read.texts["td"])


def test_the_page_needs_no_network(page):
    for _, attributes in Page(page).elements:
        for name, value in attributes.items():
            if name in ("href", "src", "xlink:href", "data", "action"):
                assert value.startswith(("#", "data:image/png;base64,"))
    without = re.sub(r'xmlns:xlink="[^"]*"', "", page)
    assert not re.search(r"https?://|@import|url\((?!#)", without)
    assert "default-src 'none'" in page


def test_every_hit_of_the_table_is_marked(page):
    read = Page(page)
    rows = {a["id"] for a in read.of("tr") if a.get("id")}
    assert len(rows) > 3
    for key in ("p0", "p1"):
        part = page[page.index(f'<section id="{key}"') :]
        part = part[: part.index("</section>")]
        marks = {f"{key}-{gid}" for gid in re.findall('data-hit="([^"]+)"', part)}
        assert marks == {row for row in rows if row.startswith(key)}


def test_the_same_results_make_the_same_page(page, scanned, report_path):
    write_report(scanned, report_path, threshold=0.01, genotypes=scanned_genotypes(scanned))
    assert report_path.read_text() == page


def test_one_phenotype_and_another_version_can_be_asked_for(scanned, report_path, capsys):
    command = ["report", str(scanned.path), "-o", str(report_path)]
    assert main([*command, "--phenotype", "trait1", "--test", "wald"]) == 0
    assert "report.html: " in capsys.readouterr().out
    text = report_path.read_text()
    assert '<section id="p0"' in text
    assert '<section id="p1"' not in text
    assert "Wald tests of the model" in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--phenotype", "trait2"], "unknown phenotype 'trait2' in "),
        (["--test", "wald_sandwich"], "no test 'wald_sandwich' in it (scan --sandwich makes it)"),
        (["--threshold", "1.5"], "between 0 and 1"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(scanned, report_path, capsys, options, words):
    assert main(["report", str(scanned.path), "-o", str(report_path), *options]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in error
    assert list(report_path.parent.iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_line(scanned, tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        write_report(scanned, tmp_path / "none" / "report.html", ["trait1"])


def test_the_store_is_left_as_it_was(scanned, report_path):
    before = {p: p.stat().st_mtime_ns for p in scanned.path.rglob("*")}
    write_report(ResultStore.open(scanned.path), report_path, ["trait1"])
    assert {p: p.stat().st_mtime_ns for p in scanned.path.rglob("*")} == before


def test_the_page_lives_in_a_browser(page, tmp_path):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium (Debian: apt install chromium)")
    report = tmp_path / "report.html"
    # What a person does, done by a script; its own line in the policy lets it run.
    probe = """
      const errors = [];
      addEventListener("error", (e) => errors.push(e.message));
      addEventListener("securitypolicyviolation", (e) => errors.push(e.violatedDirective));
      addEventListener("load", () => {
        const mark = document.querySelector("svg .hit");
        mark.dispatchEvent(new PointerEvent("pointerenter", { clientX: 5, clientY: 5 }));
        const tip = document.getElementById("tip");
        const head = document.querySelector(".hits th.n");
        head.click();
        const out = document.createElement("pre");
        out.id = "probe";
        out.textContent = JSON.stringify({
          errors, marks: document.documentElement.dataset.ready, tip: tip.textContent,
          shown: !tip.hidden, lit: document.querySelectorAll("tr.lit").length,
          wide: document.documentElement.scrollWidth <= innerWidth,
        });
        document.body.append(out);
      });
    """
    text = re.sub(r"script-src '[^']*'", "script-src 'unsafe-inline'", page)
    report.write_text(text.replace("<style>", f"<script>{probe}</script><style>", 1))
    base = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
    base += ["--no-first-run", "--disable-background-networking", "--disable-component-update"]
    base += ["--disable-sync", "--enable-logging=stderr", "--window-size=1280,900"]
    base += [f"--user-data-dir={tmp_path / 'profile'}"]

    def browse(*options: str, file=report) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*base, *options, file.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )

    dump = browse("--dump-dom")
    found = json.loads(html.unescape(re.search('<pre id="probe">(.*?)</pre>', dump.stdout)[1]))
    assert found["errors"] == []
    assert int(found["marks"]) > 3
    assert found["shown"]
    assert found["lit"] == 1
    assert "found by" in found["tip"]
    assert found["wide"]
    # As it is, with its own policy: the script runs, and the console has nothing to say.
    plain = tmp_path / "plain.html"
    plain.write_text(page)
    dump = browse("--dump-dom", file=plain)
    assert re.search(r'<html[^>]* data-ready="\d', dump.stdout)
    assert "CONSOLE" not in dump.stderr


def test_a_scan_that_has_only_begun_is_reported_as_such(scanned, tmp_path, report_path):
    begun = ResultStore.open(shutil.copytree(scanned.path, tmp_path / "begun.zarr"))
    shutil.rmtree(begun.path / "run" / "ledger")
    (begun.path / "run" / "ledger").mkdir()
    begun.complete({"run_status": "incomplete"})
    manifest = Manifest.read(begun.path, "run/checksums/zarr.json")
    for key in list(manifest.chunks):  # of results, which are yet to come
        if key.split("/")[0] in {v.name for v in begun.variables}:
            del manifest.chunks[key]
    (begun.path / "run" / "checksums" / "zarr.json").write_bytes(manifest.to_document())
    begun = ResultStore.open(begun.path)
    size = begun.array("status").chunks[1]
    fill = {v.name: np.full(size, v.fill_value, v.dtype) for v in begun.variables}
    for start in range(0, 90, size):
        begun.write_partition(0, start, start + size, fill)
    write_report(begun, report_path)
    text = report_path.read_text()
    assert "This scan is not complete" in text
    assert "still to come" in text
    assert "0 of 180 written" in text


def test_missing_libraries_are_named_with_what_installs_them(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'hlmm-scan\[report\]'"):
        importlib.reload(hlmm_scan.report)

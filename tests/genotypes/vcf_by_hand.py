"""Small VCFs, written cell by cell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

DECLARED = {
    "GT": '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n',
    "DS": '##FORMAT=<ID=DS,Number=A,Type=Float,Description="Dosage">\n',
    "HDS": '##FORMAT=<ID=HDS,Number=.,Type=Float,Description="Of haplotypes">\n',
    "GP": '##FORMAT=<ID=GP,Number=G,Type=Float,Description="Probabilities">\n',
    "PL": '##FORMAT=<ID=PL,Number=G,Type=Integer,Description="Likelihoods">\n',
}


def write_vcf(
    path: Path,
    rows: Sequence[tuple[str, Sequence[str]]],
    *,
    declared: Sequence[str] = tuple(DECLARED),
    extra: str = "",
    people: Sequence[str] | None = None,
) -> Path:
    """Write a VCF of (FORMAT, a cell for each person) rows, rs0 at 1:100 and on, A to G."""
    people = people or [f"p{k}" for k in range(len(rows[0][1]))]
    head = "##fileformat=VCFv4.2\n##contig=<ID=1>\n" + "".join(DECLARED[name] for name in declared)
    lines = [
        "\t".join(["1", str(100 * (k + 1)), f"rs{k}", "A", "G", ".", "PASS", ".", form, *cells])
        for k, (form, cells) in enumerate(rows)
    ]
    columns = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t" + "\t".join(people)
    path.write_text(head + extra + columns + "\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path

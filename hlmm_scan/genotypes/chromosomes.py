"""Names of chromosomes: what the world writes in many ways, said in one.

``6``, ``06``, ``chr6``, ``Chr_6``, ``6.0`` and ``NC_000006.12`` are one chromosome, and so are
``X``, ``0X``, ``23``, ``X_nonPAR`` and ``NC_000023.11``. Were they not, leaving the chromosome of a
test variant out of the random effects would silently leave out nothing, and males would be taken
for diploid on X. Everything that compares chromosomes, or asks what one is, does it by
:func:`chromosome`.

This module imports no input or output, so that null models can depend on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

HUMAN_AUTOSOMES = 22

NUMBERS_STAY = 1 << 30
"""Autosomes beyond any number a chromosome has: 23 stays 23, whether or not it is X."""

X, Y, XY, MT = "X", "Y", "XY", "MT"
"""XY: the pseudo-autosomal regions of X and Y, where everybody has two copies."""

AFTER_AUTOSOMES = (X, Y, XY, MT)
"""What PLINK's numbers after the last autosome mean."""

_MOST_DIGITS = 9
_MOST_NAMED, _MOST_SHOWN = 6, 40  # names in a message, and characters of each

_PREFIX = re.compile(r"^(?:chromosome|chrom|chr)[ _.:-]?(?=.)", re.IGNORECASE)
_NUMBER = re.compile(r"0*([0-9]{1,9})(?:\.0*)?")
_WORDS = re.compile(
    r"""0*(?:
    (?P<XY>xy|par[ _.-]?[12]?|[xy][ _.-]?par[ _.-]?[12]?)
    |(?P<X>(?:x[ _.-]?)?non[ _.-]?par|x[ _.-]?npr|x)
    |(?P<Y>y[ _.-]?non[ _.-]?par|y[ _.-]?npr|y)
    |(?P<MT>mt|m|mito|mitochondri(?:on|al|a))
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_ACCESSIONS = (
    (re.compile(r"NC_(\d{6})(?:\.\d+)?", re.IGNORECASE), {22: 1, 19: 67}),
    (re.compile(r"CM(\d{6})(?:\.\d+)?", re.IGNORECASE), {22: 663, 19: 994}),
)
"""RefSeq's and GenBank's numbers, and that of chromosome 1 by the number of autosomes: of humans
and mice; the others follow one after the other."""

_MITOCHONDRION = re.compile(r"(?:NC_012920|NC_005089|J01415)(?:\.\d+)?", re.IGNORECASE)


@lru_cache(maxsize=1 << 16)
def chromosome(name: str, autosomes: int = HUMAN_AUTOSOMES) -> str:
    """Return the one name of a chromosome.

    Parameters
    ----------
    name : str
        However a source writes it.
    autosomes : int, default 22
        Of the species. Numbers after the last one are X, Y, XY and MT, as in PLINK; accession
        numbers are known of humans and mice.

    Returns
    -------
    str
        A number, X, Y, XY or MT; of other names what is left without ``chr`` before it.
    """
    bare = _PREFIX.sub("", name.strip())
    number = _NUMBER.fullmatch(bare)
    if number is not None:
        return _numbered(int(number[1]), autosomes)
    word = _WORDS.fullmatch(bare)
    if word is not None:
        return str(word.lastgroup)
    for kind, firsts in _ACCESSIONS:
        accession = kind.fullmatch(bare)
        if accession is not None and autosomes in firsts:
            at = int(accession[1]) - firsts[autosomes] + 1
            if 1 <= at <= autosomes + 2:  # X and Y follow
                return _numbered(at, autosomes)
    if _MITOCHONDRION.fullmatch(bare):
        return MT
    return bare.lstrip("0") or bare


def _numbered(number: int, autosomes: int) -> str:
    beyond = number - autosomes
    return AFTER_AUTOSOMES[beyond - 1] if 1 <= beyond <= len(AFTER_AUTOSOMES) else str(number)


@lru_cache(maxsize=1 << 16)
def linkage_group(name: str, autosomes: int = HUMAN_AUTOSOMES) -> str:
    """Return what is left out of random effects together with a chromosome: XY lies on X."""
    one = chromosome(name, autosomes)
    return X if one == XY else one


def is_autosome(name: str, autosomes: int = HUMAN_AUTOSOMES) -> bool:
    """Return whether a name is that of a numbered autosome."""
    number = number_of(chromosome(name, autosomes))
    return number is not None and 1 <= number <= autosomes


def number_of(one: str) -> int | None:
    """Return the number that :func:`chromosome` gave; None of other names, endless ones too."""
    plain = one.isascii() and one.isdecimal() and len(one) <= _MOST_DIGITS
    return int(one) if plain else None


def unknown_names(names: Iterable[str], autosomes: int = HUMAN_AUTOSOMES) -> list[str]:
    """Return the names that are neither an autosome's nor X, Y, XY or MT."""
    return [
        name
        for name in names
        if not is_autosome(name, autosomes) and chromosome(name, autosomes) not in AFTER_AUTOSOMES
    ]


def autosomes_seen(names: Iterable[str]) -> int | None:
    """Return how many autosomes a species clearly has whose chromosomes are these.

    Clearly means that sex chromosomes have letters, and that the numbers run from 1 without a gap
    to ten or more.

    Returns
    -------
    int or None
        None where that is not clear, or as in humans.
    """
    bare = [chromosome(name, NUMBERS_STAY) for name in names]
    numbers = {number for name in bare if (number := number_of(name))}
    last = max(numbers, default=0)
    lettered = any(name in (X, Y) for name in bare)
    if lettered and last >= 10 and last != HUMAN_AUTOSOMES and len(numbers) == last:
        return last
    return None


def in_words(names: Sequence[str], autosomes: int = HUMAN_AUTOSOMES) -> str:
    """Return chromosomes for a message: neighbouring numbers as a range, others by name."""
    ones = list(dict.fromkeys(chromosome(name, autosomes) for name in names))
    numbers = sorted(n for one in ones if (n := number_of(one)) is not None)
    words: list[str] = []
    while numbers:
        run = 1
        while run < len(numbers) and numbers[run] == numbers[0] + run:
            run += 1
        first, last = numbers[0], numbers[run - 1]
        words += [f"{first}-{last}"] if run > 2 else [str(n) for n in numbers[:run]]
        del numbers[:run]
    others = [one[:_MOST_SHOWN] or "(no name)" for one in ones if number_of(one) is None]
    if len(others) > _MOST_NAMED:
        others = [*others[:_MOST_NAMED], f"{len(others) - _MOST_NAMED:,} more"]
    return ", ".join([*words, *others])

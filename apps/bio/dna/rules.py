"""The vocabulary of rules as small frozen values, each saying what it is made of.

An `Atom` is one rule that can be in a conflict by itself: patterns to avoid on a span (all such atoms are compiled into
one automaton), letters allowed at each site, a timed automaton, or a budget.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from apps.bio.dna import enzymes, motifs
from apps.bio.dna.frames import synonyms
from core.constrain.patterns import occurrences
from core.constrain.timed import Budget, Timed, codons, region, tiles
from core.errors import UsageError

__all__ = ["Alphabet", "Atom", "Fix", "Forbid", "Frame", "Gc", "Homopolymer", "Require", "Spacing", "Spec"]

Span = tuple[int, int] | None


@dataclass(frozen=True, eq=False)
class Atom:
    """One rule.

    Args:
        name: as a reason names it.
        avoid: patterns that may not occur on `span` (sites from 0, the end excluded).
        span: where.
        sites: bool [L, K] allowed letters.
        rule: an automaton or a budget.
    """

    name: str
    avoid: tuple[motifs.Motif, ...] = ()
    span: tuple[int, int] = (0, 0)
    sites: np.ndarray | None = None
    rule: Timed | Budget | None = None


class Spec(Protocol):
    """A rule as a user states it."""

    def sound(self, letters: str) -> None:
        """Refuse what makes no sense over `letters` at any length."""
        ...

    def atoms(self, length: int, letters: str) -> Iterator[Atom]:
        """Yield the rules that it consists of, for sequences of `length` over `letters`."""
        ...


def span(within: Span, length: int, field: str) -> tuple[int, int]:
    """Return a span from 1 as sites from 0, the end excluded.

    Raises:
        UsageError: it does not lie within the sequence.
    """
    first, last = within or (1, length)
    if not 1 <= first <= last <= length:
        raise UsageError(f"must lie within 1 ... {length}", field=field, value=within)
    return first - 1, last


def around(touching: Span, reach: int, where: tuple[int, int], length: int) -> tuple[int, int]:
    """Return the part of a span (sites from 0, the end excluded) in which windows of reach + 1 letters touch another.

    Raises:
        UsageError: the span to touch does not lie within the sequence.
    """
    if touching is None:
        return where
    first, last = span(touching, length, "touching")
    return max(where[0], first - reach), min(where[1], last + reach)


def motif(pattern: str, letters: str) -> motifs.Motif:
    """Return a motif, or the site of an enzyme that is named."""
    if letters == motifs.DNA and any(c.islower() for c in pattern):
        return motifs.parse(enzymes.site(pattern))
    if re.fullmatch("[A-Z][a-z]{2}[A-Za-z0-9]*", pattern):
        raise UsageError("enzymes cut DNA", field="motif", value=pattern)
    return motifs.parse(pattern, letters)


@dataclass(frozen=True)
class Forbid:
    """Motifs and enzymes that may not occur (see `apps.bio.constraints.forbid`)."""

    patterns: tuple[str, ...]
    both_strands: bool = True
    within: Span = None
    touching: Span = None

    def __str__(self) -> str:
        """Return the rule in words."""
        return "forbid " + " ".join(self.patterns)

    def sound(self, letters: str) -> None:
        """Refuse words that are no motifs."""
        for pattern in self.patterns:
            motif(pattern, letters)

    def atoms(self, length: int, letters: str) -> Iterator[Atom]:
        """Yield one rule for each pattern."""
        low, high = span(self.within, length, "forbid")
        for pattern in self.patterns:
            found = motifs.strands(motif(pattern, letters), self.both_strands and letters == motifs.DNA)
            where = around(self.touching, len(found[0]) - 1, (low, high), length)
            yield Atom(f"forbid {pattern}", tuple(found), where)


@dataclass(frozen=True)
class Homopolymer:
    """No run of one letter longer than `longest`; with `touching`, among the runs that overlap this span."""

    longest: int
    within: Span = None
    touching: Span = field(default=None, repr=False)

    def __str__(self) -> str:
        """Return the rule in words."""
        return f"homopolymer {self.longest}"

    def sound(self, letters: str) -> None:
        """Refuse runs of no letter."""
        if self.longest < 1:
            raise UsageError("at least 1", field="homopolymer", value=self.longest)

    def atoms(self, length: int, letters: str) -> Iterator[Atom]:
        """Yield the rule."""
        self.sound(letters)
        runs = tuple((frozenset([v]),) * (self.longest + 1) for v in range(len(letters)))
        where = span(self.within, length, "homopolymer")
        yield Atom(str(self), runs, around(self.touching, self.longest, where, length))


@dataclass(frozen=True)
class Require:
    """Motifs that occur so often (see `apps.bio.constraints.require`)."""

    motifs: tuple[str, ...]
    both_strands: bool = False
    least: int = 1
    most: int | None = None
    within: Span = None

    def __str__(self) -> str:
        """Return the rule in words."""
        most = "any" if self.most is None else self.most
        often = "" if (self.least, self.most) == (1, None) else f" {self.least} to {most} times"
        return "require " + " ".join(self.motifs) + often

    def sound(self, letters: str) -> None:
        """Refuse words that are no motifs, and bounds that no count meets."""
        for pattern in self.motifs:
            motif(pattern, letters)
        if self.least < 0 or (self.most is not None and self.most < self.least):
            raise UsageError("0 <= low <= high is needed", field="count", value=(self.least, self.most))

    def atoms(self, length: int, letters: str) -> Iterator[Atom]:
        """Yield one counter for each motif."""
        self.sound(letters)
        low, high = span(self.within, length, "require")
        for pattern in self.motifs:
            found = motifs.strands(motif(pattern, letters), self.both_strands and letters == motifs.DNA)
            counted = occurrences(found, len(letters), self.least, self.most)
            name = str(Require((pattern,), self.both_strands, self.least, self.most))
            yield Atom(name, rule=region(counted, length, low, high))


@dataclass(frozen=True)
class Spacing:
    """Motif `a`, lo ... hi letters, motif `b`."""

    a: str
    b: str
    lo: int
    hi: int
    both_strands: bool = False
    within: Span = None

    def __str__(self) -> str:
        """Return the rule in words."""
        return f"spacing {self.a} {self.lo}-{self.hi} {self.b}"

    def sound(self, letters: str) -> None:
        """Refuse words that are no motifs, and distances that there are not."""
        if not 0 <= self.lo <= self.hi:
            raise UsageError("0 <= lo <= hi is needed", field="spacing", value=(self.lo, self.hi))
        for pattern in (self.a, self.b):
            motif(pattern, letters)

    def atoms(self, length: int, letters: str) -> Iterator[Atom]:
        """Yield the rule."""
        self.sound(letters)
        a, b, gap = motif(self.a, letters), motif(self.b, letters), frozenset(range(len(letters)))
        wide = [a + (gap,) * n + b for n in range(self.lo, self.hi + 1)]
        found = [m for w in wide for m in motifs.strands(w, self.both_strands and letters == motifs.DNA)]
        low, high = span(self.within, length, "spacing")
        yield Atom(str(self), rule=region(occurrences(found, len(letters)), length, low, high))


@dataclass(frozen=True)
class Fix:
    """Letters from a position on; codes leave a choice, [..] one of, {..} none of, `?` anything.

    In a template, `of` is the position in it, by which messages call the rule.
    """

    position: int
    letters: str
    of: int | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """Return the rule in words."""
        shown = self.letters if self.size <= 12 else f"{self.letters[:9]}..."
        last = f"-{self.called + self.size - 1}" if self.size > 1 else ""
        return f"fix {self.called}{last} {shown}"

    @property
    def called(self) -> int:
        """The position that messages name."""
        return self.of or self.position

    @property
    def size(self) -> int:
        """Number of letters."""
        return len(self.places)

    @property
    def places(self) -> list[str]:
        """What may stand at each site."""
        return re.findall(r"\[[A-Z]+\]|\{[A-Z]+\}|.", self.letters.upper())

    def sound(self, letters: str) -> None:
        """Refuse letters that are none, and places before the first."""
        if self.position < 1:
            raise UsageError("positions count from 1", field="fix", value=self.position)
        for c in self.places:
            if c != "?":
                motifs.parse(c, letters)

    def atoms(self, length: int, letters: str) -> Iterator[Atom]:
        """Yield the rule."""
        self.sound(letters)
        low, high = span((self.position, self.position + self.size - 1), length, "fix")
        sites = np.ones((length, len(letters)), bool)
        for i, c in enumerate(self.places):
            if c != "?":
                sites[low + i] = [v in motifs.parse(c, letters)[0] for v in range(len(letters))]
        yield Atom(str(self), sites=sites, span=(low, high))


@dataclass(frozen=True)
class Alphabet:
    """The only letters allowed."""

    letters: str
    within: Span = None

    def __str__(self) -> str:
        """Return the rule in words."""
        return f"alphabet {self.letters}"

    def sound(self, letters: str) -> None:
        """Refuse letters of others."""
        wrong = [c for c in self.letters.upper() if c not in letters]
        if wrong or not self.letters:
            raise UsageError(f"is not one of {letters}", field="alphabet", value="".join(wrong))

    def atoms(self, length: int, letters: str) -> Iterator[Atom]:
        """Yield the rule."""
        self.sound(letters)
        low, high = span(self.within, length, "alphabet")
        sites = np.ones((length, len(letters)), bool)
        sites[low:high] = [c in self.letters.upper() for c in letters]
        yield Atom(str(self), sites=sites)


@dataclass(frozen=True)
class Frame:
    """Triples that spell a protein (see `apps.bio.constraints.frame`); `of` as in `Fix`."""

    start: int
    protein: str
    code: int = 1
    strand: int = 1
    of: int | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """Return the rule in words."""
        shown = self.protein if len(self.protein) <= 12 else f"{self.protein[:9]}..."
        return f"frame {self.of or self.start} {shown}" + (f" code {self.code}" if self.code != 1 else "")

    def sound(self, letters: str) -> None:
        """Refuse what is no protein of the code, and places before the first."""
        if letters != motifs.DNA:
            raise UsageError("reading frames are a matter of DNA", field="frame", value=letters)
        if self.start < 1:
            raise UsageError("positions count from 1", field="frame", value=self.start)
        synonyms(self.protein, self.code, self.strand)

    def atoms(self, length: int, letters: str) -> Iterator[Atom]:
        """Yield the rule."""
        self.sound(letters)
        if self.start + 3 * len(self.protein) - 1 > length:
            raise UsageError(f"{len(self.protein)} codons from {self.start} on do not fit into {length} letters",
                             field="frame")  # fmt: skip
        allowed = synonyms(self.protein, self.code, self.strand)
        yield Atom(str(self), rule=codons(allowed, length, self.start - 1, 4))


@dataclass(frozen=True)
class Gc:
    """Share of G and C, over all or tile by tile (see `apps.bio.constraints`)."""

    lo: float
    hi: float
    window: int | None = None
    within: Span = None

    def __str__(self) -> str:
        """Return the rule in words."""
        return f"gc {self.lo:g}-{self.hi:g}" + (f"/{self.window}" if self.window else "")

    def bounds(self, size: int) -> tuple[int, int]:
        """Return the least and most G and C among `size` letters."""
        return math.ceil(self.lo * size - 1e-9), math.floor(self.hi * size + 1e-9)

    def sound(self, letters: str) -> None:
        """Refuse what are no shares and no window."""
        if letters != motifs.DNA:
            raise UsageError("GC content is a matter of DNA", field="gc", value=letters)
        if not 0 <= self.lo <= self.hi <= 1:
            raise UsageError("0 <= lo <= hi <= 1 is needed", field="gc", value=(self.lo, self.hi))
        if self.window is not None and self.window < 1:
            raise UsageError("a window has at least one letter", field="gc", value=self.window)

    def atoms(self, length: int, letters: str) -> Iterator[Atom]:
        """Yield the rule: a budget over the span, or one over each tile."""
        self.sound(letters)
        low, high = span(self.within, length, "gc")
        price = np.array([0, 1, 1, 0])
        least, most = self.bounds(min(self.window or length, high - low))
        if least > most:
            raise UsageError(f"no whole number of letters in {min(self.window or length, high - low)} has this share",
                             field="gc", value=(self.lo, self.hi))  # fmt: skip
        if self.window is not None and self.window < high - low:
            tiled = tiles(price.tolist(), self.window, least, most, high, low)
            wait = np.full(length - high, 2)
            yield Atom(str(self), rule=Timed(tiled.delta, np.append(tiled.table, wait), tiled.accept))
            return
        cost = np.zeros((length, 4), np.int64)
        cost[low:high] = price
        yield Atom(str(self), rule=Budget(cost, least, most))

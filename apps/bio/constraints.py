"""What a design must obey, as one law over letters: a product of automata, minimised for its length.

| rule | how it enters the law |
|---|---|
| `forbid`, `homopolymer` | one automaton for all motifs, enzymes (both strands) and runs together |
| `require`, `spacing` | a counter of matches: at least one, or so many |
| `fix`, `keep`, `alphabet` | letters allowed at each site |
| `frame` | the codons of a protein at their triples |
| `gc` | a budget over the whole sequence; with a window, one over each tile |

Positions count from 1, spans include both ends. All of this holds by construction, with one exception: `gc` with a
window is exact on the tiles that start at 1, 1 + w, 1 + 2 w, ...; windows between tiles are *checked* (`sliding`), and
`apps.bio.design` masks and draws them again. The same is done with what may not lie where a circle of open letters
closes (`seams`). Rules that no sequence obeys are refused before anything is sampled, with
a smallest set of them that contradict each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from apps.bio.dna import motifs
from apps.bio.dna.rules import Alphabet, Atom, Fix, Forbid, Frame, Gc, Homopolymer, Require, Spacing, Spec, motif
from core.constrain.layers import Layers, conflict, prepared, unfold
from core.constrain.patterns import avoid_all
from core.constrain.shared import Mode, SharedLaw
from core.constrain.timed import Budget, Timed, region
from core.errors import InfeasibleError, UsageError

__all__ = [
    "Sliding", "Spec", "alphabet", "assemble", "atoms", "compile_", "fix", "forbid", "frame", "gc", "homopolymer",
    "keep", "refuse_origin", "require", "seams", "sliding", "spacing",
]  # fmt: skip

Span = tuple[int, int] | None


def forbid(*patterns: str, both_strands: bool = True, within: Span = None, touching: Span = None) -> Forbid:
    """Forbid motifs (IUPAC) and enzymes' sites (by name), in DNA on both strands.

    Args:
        patterns: motifs and names of enzymes.
        both_strands: also their reverse complements.
        within: only windows inside this span.
        touching: only windows that overlap this span (what stands around a design is as it is).
    """
    return Forbid(patterns, both_strands, within, touching)


def require(
    *motifs: str, both_strands: bool = False, count: int | tuple[int, int | None] | None = None, within: Span = None
) -> Require:
    """Require each motif at least once, or `count` times (a number, or (least, most)); overlapping matches count."""
    least, most = (1, None) if count is None else (count, count) if isinstance(count, int) else count
    return Require(motifs, both_strands, least, most, within)


def homopolymer(longest: int, within: Span = None) -> Homopolymer:
    """Forbid runs of one letter longer than `longest`."""
    return Homopolymer(longest, within)


def gc(lo: float, hi: float, window: int | None = None, within: Span = None) -> Gc:
    """Keep the share of G and C between `lo` and `hi`, over all or in each window (see above what is exact)."""
    return Gc(lo, hi, window, within)


def fix(position: int, letters: str) -> Fix:
    """Fix the letters from a position on; IUPAC codes leave a choice, `?` anything."""
    return Fix(position, letters)


def keep(span: tuple[int, int], template: str) -> Fix:
    """Keep the letters of a template on a span."""
    first, last = span
    if not 1 <= first <= last <= len(template):
        raise UsageError(f"must lie within 1 ... {len(template)}", field="keep", value=span)
    return Fix(first, template[first - 1 : last])


def frame(start: int, protein: str, code: int = 1, strand: int = 1) -> Frame:
    """Make the triples from `start` on spell a protein (`*` stop, `X` any residue) under a genetic code."""
    return Frame(start, protein, code, strand)


def alphabet(letters: str, within: Span = None) -> Alphabet:
    """Allow only these letters."""
    return Alphabet(letters, within)


def spacing(a: str, b: str, lo: int, hi: int, both_strands: bool = False, within: Span = None) -> Spacing:
    """Require motif `a` and then `b` with lo ... hi letters between them, somewhere."""
    return Spacing(a, b, lo, hi, both_strands, within)


def atoms(specs: Sequence[Spec], length: int, letters: str) -> list[Atom]:
    """Return the single rules of all specs; neighbouring fixed letters as one."""
    return [atom for spec in _joined(specs) for atom in spec.atoms(length, letters)]


def _joined(specs: Sequence[Spec]) -> Iterator[Spec]:
    """Yield the specs, runs of `fix` that continue each other as one."""
    held: Fix | None = None
    end = 0  # the site behind what is held
    for spec in specs:
        if isinstance(spec, Fix) and held is not None and spec.position == end:
            if spec.called - held.called == end - held.position:
                held, end = replace(held, letters=held.letters + spec.letters), end + spec.size
                continue
        if held is not None:
            yield held
            held = None
        if isinstance(spec, Fix):
            held, end = spec, spec.position + spec.size
        else:
            yield spec
    if held is not None:
        yield held


def assemble(parts: Sequence[Atom], length: int, tokens: int) -> Layers | None:
    """Return the product of some rules; None where no sequence of this length obeys them."""
    rules, allowed, budgets = _sorted(parts, length, tokens)
    if not allowed.any(1).all():
        return None
    plan = prepared(rules, budgets)
    return None if plan is None else unfold(plan[0], allowed, plan[1])


def _sorted(parts: Sequence[Atom], length: int, tokens: int) -> tuple[list[Timed], np.ndarray, list[Budget]]:
    allowed, avoided = np.ones((length, tokens), bool), {}
    rules, budgets = [], []
    for atom in parts:
        if atom.avoid:
            avoided.setdefault(atom.span, []).extend(atom.avoid)
        if atom.sites is not None:
            allowed &= atom.sites
        if isinstance(atom.rule, Budget):
            budgets.append(atom.rule)
        elif atom.rule is not None:
            rules.append(atom.rule)
    merged = [region(avoid_all(patterns, tokens), length, *span) for span, patterns in avoided.items()]
    return merged + rules, allowed, budgets


def compile_(specs: Sequence[Spec], length: int, letters: str = "ACGT", mode: Mode = "product") -> SharedLaw:
    """Return the law of one row (`with_rows` for more) of sequences of `length` letters that obey all specs.

    Raises:
        InfeasibleError: none does; names a smallest conflict.
        UsageError: a spec that makes no sense at this length or over these letters.
    """
    parts = atoms(specs, length, letters)
    counted = [atom for atom in parts if isinstance(atom.rule, Timed)]  # hopeless alone, huge together
    alone = all(assemble([atom], length, len(letters)) is not None for atom in counted)
    layers = assemble(parts, length, len(letters)) if alone else None
    if layers is None:
        refuse(parts, length, len(letters))
        raise AssertionError("unreachable")
    return SharedLaw(layers, 1, mode)


def refuse(parts: Sequence[Atom], length: int, tokens: int) -> None:
    """Raise InfeasibleError with a smallest set of rules that contradict each other."""
    ordered = sorted(parts, key=lambda a: 0 if not isinstance(a.rule, Timed) else a.rule.delta.shape[1])
    number = {str(i): atom for i, atom in enumerate(ordered)}  # small automata first: most tests need no others

    def test(names: Sequence[str]) -> bool:
        return assemble([number[n] for n in names], length, tokens) is not None

    names = [number[n].name for n in sorted(conflict(list(number), test), key=int)]
    who = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    why = "cannot be met" if len(names) == 1 else "contradict each other"
    raise InfeasibleError(f"{who} {why} within {length} letters", field="constraints",
                          hint=f"drop or relax {'it' if len(names) == 1 else 'one of them'}")  # fmt: skip


@dataclass(frozen=True)
class Sliding:
    """Every window of a GC rule, to be checked: lo <= share <= hi.

    Args:
        name: the rule.
        low, high: least and most G and C in a window.
        window: letters in it.
        first, last: the span searched, from 1.
        circle: windows also run from the last letter on to the first.
    """

    name: str
    low: int
    high: int
    window: int
    first: int
    last: int
    circle: bool = False

    def broken(self, tokens: np.ndarray) -> np.ndarray:
        """Return which letters of DNA tokens [B, L] lie in a window out of bounds, bool [B, L]."""
        tokens = np.asarray(tokens)
        part = ((tokens == 1) | (tokens == 2))[:, self.first - 1 : self.last]
        part = np.concatenate([part, part[:, : self.window - 1]], 1) if self.circle else part
        sums = np.cumsum(np.pad(part, ((0, 0), (1, 0))), 1)
        held = sums[:, self.window :] - sums[:, : -self.window]
        wrong = (held < self.low) | (held > self.high)
        out = np.zeros(tokens.shape, bool)
        for j in range(self.window):
            out[:, (self.first - 1 + j + np.arange(wrong.shape[1])) % tokens.shape[1]] |= wrong
        return out


@dataclass(frozen=True, eq=False)
class Seam:
    """Patterns that may not lie where the last letter of a circle meets the first, unless all their letters are kept.

    Args:
        patterns: sets of tokens, site after site.
        open: the letters that are designed, bool [L].
    """

    patterns: tuple[tuple[frozenset[int], ...], ...]
    open: np.ndarray

    def broken(self, tokens: np.ndarray) -> np.ndarray:
        """Return which letters of tokens [B, L] lie in such a pattern, bool [B, L]."""
        tokens, length = np.asarray(tokens), len(self.open)
        out = np.zeros(tokens.shape, bool)
        for pattern in self.patterns:
            for first in range(max(length - len(pattern) + 1, 0), length):
                sites = (first + np.arange(len(pattern))) % length
                if self.open[sites].any():
                    hit = np.logical_and.reduce([np.isin(tokens[:, i], list(p)) for i, p in zip(sites, pattern)])  # noqa: B905
                    out[np.ix_(hit, sites)] = True
        return out


def seams(specs: Sequence[Spec], opened: np.ndarray, letters: str = "ACGT") -> list[Seam]:
    """Return what may not lie where a circle closes: what is avoided, and motifs that may not come more often.

    Args:
        specs: rules on the circle as it is drawn.
        opened: the letters that are designed, bool [L].
        letters: the alphabet.
    """
    found: list[Any] = []
    for spec in specs:
        if isinstance(spec, Require) and spec.most is not None and _everywhere(spec, len(opened)):
            for word in spec.motifs:
                found += motifs.strands(motif(word, letters), spec.both_strands)
    found += [pattern for atom in _avoided(specs, len(opened), letters) for pattern in atom.avoid]
    return [Seam(tuple(found), opened)] if found else []


def _everywhere(spec: Spec, length: int) -> bool:
    """Tell whether a rule speaks about all letters."""
    return getattr(spec, "within", None) in (None, (1, length))


def _avoided(specs: Sequence[Spec], length: int, letters: str) -> list[Atom]:
    """Return what may occur nowhere."""
    some = [s for s in specs if isinstance(s, Forbid | Homopolymer) and _everywhere(s, length)]
    return [atom for spec in some for atom in spec.atoms(length, letters)]


def refuse_origin(specs: Sequence[Spec], opened: np.ndarray, letters: str = "ACGT") -> None:
    """Refuse rules of a circle that contradict each other where it closes (arguments as in `seams`).

    The circle is opened half-way round instead, so that what lies over its origin lies within. Looked at are the
    letters allowed at each site and what may occur nowhere; windows of kept letters alone are as they are.

    Raises:
        InfeasibleError: names a smallest conflict.
    """
    length = len(opened)
    half, free = length // 2, np.roll(opened, -(length // 2))
    origin, parts = length - half, [a for a in atoms(specs, length, letters) if a.sites is not None]
    parts = [replace(a, sites=np.roll(a.sites, -half, 0)) for a in parts]  # type: ignore[arg-type]
    for atom in _avoided(specs, length, letters):
        for pattern in atom.avoid:
            size = len(pattern)
            starts = range(max(origin - size + 1, 0), min(origin, length - size + 1))
            for some, run in groupby(starts, key=lambda at: bool(free[at : at + size].any())):  # noqa: B023
                if some:
                    where = list(run)
                    span = (where[0], where[-1] + size)
                    parts.append(Atom(f"{atom.name} over the origin", (pattern,), span))
    if assemble(parts, length, len(letters)) is None:
        refuse(parts, length, len(letters))


def sliding(specs: Sequence[Spec], length: int, circle: bool = False) -> list[Sliding]:
    """Return the windows that are to be checked, not built in; on a circle also those that run over its origin."""
    out = []
    for spec in specs:
        if isinstance(spec, Gc) and spec.window is not None and spec.window < length:
            first, last = spec.within or (1, length)
            if last - first + 1 > spec.window:
                around = circle and (first, last) == (1, length)
                out.append(Sliding(str(spec), *spec.bounds(spec.window), spec.window, first, last, around))
    return out

"""Which residues are designed, which stay, and with which letters: selectors, the table, the hard law.

A selector lists residues in the author's numbering: `A1-6,A23,B38` are residues 1 to 6 and 23 of chain A and 38 of
chain B; `A95B` has the insertion code B; `A` alone is the whole chain; `AA:7-9` and `A-2:7-9` name chains that are not
one letter, `:7-9` one without a name. A range runs in the order of the file, so that insertion codes inside it belong
to it. Every end must exist: a residue that is missing in the file is an error, never silently a different set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from apps.bio.protein.data import AMINO
from apps.bio.protein.structure import Structure
from core.constrain.automaton import sites
from core.constrain.law import Law
from core.constrain.regular import law
from core.errors import InfeasibleError, UsageError

__all__ = ["Sites", "choose", "select"]

PART = re.compile(
    r"(?:(?P<long>[^:,]*):|(?P<chain>[A-Za-z]))"
    r"(?:(?P<first>-?\d+[A-Za-z]?)(?:-(?:(?P=chain)|(?P=long):)?(?P<last>-?\d+[A-Za-z]?))?)?"
)


def select(structure: Structure, text: str, field: str = "selector") -> np.ndarray:
    """Return the residues that a selector names, sorted int64 positions.

    Raises:
        UsageError: cannot be read, or names a chain or residue that the structure lacks.
    """
    index = {r.label: i for i, r in enumerate(structure.residues)}
    found: set[int] = set()
    for part in filter(None, (p.strip() for p in text.split(","))):
        match = PART.fullmatch(part)
        if match is None:
            raise UsageError("cannot be read", field=field, value=part, hint="write A1-6,A23,B38 or A for a chain")
        chain = match["long"] or match["chain"] or ""
        mine = [i for i, r in enumerate(structure.residues) if r.chain.strip() == chain]
        if not mine:
            names = list(dict.fromkeys(r.chain.strip() or ":" for r in structure.residues))
            raise UsageError(f"no such chain in {part}", field=field, value=chain, choices=names)
        if match["first"] is None:
            found.update(mine)
            continue
        ends = [_find(structure, index, chain, end, field) for end in (match["first"], match["last"] or match["first"])]
        if ends[0] > ends[1]:
            raise UsageError("runs backwards", field=field, value=part)
        found.update(range(ends[0], ends[1] + 1))
    return np.array(sorted(found), np.int64)


def _find(structure: Structure, index: dict[str, int], chain: str, end: str, field: str) -> int:
    """Return the position of a residue, or say what is there instead."""
    colon = "" if len(chain) == 1 and chain.isalpha() else ":"
    exact, label = f"{chain}{colon}{end}", f"{chain}{colon}{end.upper()}"
    for name in (exact, label):
        if name in index:
            return index[name]
    for name, reason in structure.left_out:
        if name in (exact, label):
            raise UsageError(f"cannot be designed or fixed: {reason}", field=field, value=label)
    number = int(re.match(r"-?\d+", end)[0])  # type: ignore[index]
    near = sorted((r for r in structure.residues if r.chain.strip() == chain), key=lambda r: abs(r.number - number))[:3]
    here = ", ".join(r.label for r in near)
    raise UsageError(f"no such residue in {structure.name}", field=field, value=label, hint=f"nearest: {here}")


@dataclass(frozen=True, eq=False)
class Sites:
    """What each residue may become.

    Args:
        structure: whose residues.
        allowed: bool [N, 20]; a fixed residue has one letter.
        fixed: which residues keep their letter, bool [N].
    """

    structure: Structure
    allowed: np.ndarray
    fixed: np.ndarray

    @property
    def designed(self) -> np.ndarray:
        """Return the positions of designed residues, int64."""
        return np.flatnonzero(~self.fixed)

    def start(self) -> np.ndarray:
        """Return the tokens to start from: letters at fixed residues, the mask (20) elsewhere, int64 [N]."""
        return np.where(self.fixed, self.structure.tokens, len(AMINO))

    def law(self, rows: int) -> Law:
        """Return the hard law of `rows` sequences, for the sampler."""
        return law(sites(self.allowed, len(AMINO)), rows, len(self.allowed))

    def table(self) -> str:
        """Return the table of fixed and designed residues that is printed before anything is sampled."""
        role = ["fixed" if f else _letters(a) for f, a in zip(self.fixed, self.allowed, strict=True)]
        runs = groupby(range(len(role)), key=lambda i: (self.structure.residues[i].chain, role[i]))
        rows = [("residues", "number", "what", "native")]
        for (_, what), group in runs:
            part = [self.structure.residues[i] for i in group]
            where = part[0].label if len(part) == 1 else f"{part[0].label}-{part[-1].number}{part[-1].insertion}"
            text = "".join(r.letter for r in part)
            rows.append((where, str(len(part)), what, text if len(text) <= 40 else f"{text[:30]}...{text[-7:]}"))
        rows += [(name, "", "left out", reason) for name, reason in self.structure.left_out]
        rows += [(f"{a} | {b}", "", "gap", "residues are missing between them") for a, b in self.structure.gaps]
        width = [max(len(r[k]) for r in rows) for k in range(3)]
        lines = ["  ".join([r[k].ljust(width[k]) for k in range(3)] + [r[3]]).rstrip() for r in rows]
        fixed = int(self.fixed.sum())
        return "\n".join(
            [*lines, f"{len(role) - fixed} designed, {fixed} fixed, {len(self.structure.left_out)} left out"]
        )


def _letters(allowed: np.ndarray) -> str:
    """Describe the letters of a designed residue."""
    if allowed.all():
        return "designed"
    some, others = ("".join(a for a, v in zip(AMINO, allowed, strict=True) if v == want) for want in (True, False))
    return f"designed, one of {some}" if len(some) <= len(others) else f"designed, none of {others}"


def choose(
    structure: Structure, fix: str = "", design: str = "", letters: Mapping[str, str] | None = None, exclude: str = ""
) -> Sites:
    """Say which residues are designed and from which letters.

    Args:
        structure: the backbone.
        fix: selector of residues that keep their letter.
        design: selector of the only residues to design; by default all that are not fixed.
        letters: selector -> the letters allowed there.
        exclude: letters that no designed residue may become.

    Raises:
        UsageError: a selector or letter is wrong, or a residue is both to be fixed and designed.
        InfeasibleError: a designed residue is left without a letter, a kept one has a letter that `letters` does not
            allow, or nothing is left to design.
    """
    n, alphabet = len(structure.residues), np.array(list(AMINO))
    fixed = np.zeros(n, bool)
    fixed[select(structure, fix, "fix")] = True
    if design:
        wanted = np.zeros(n, bool)
        wanted[select(structure, design, "design")] = True
        if (both := np.flatnonzero(fixed & wanted)).size:
            raise UsageError("is both fixed and designed", field="design", value=structure.residues[both[0]].label)
        fixed = ~wanted
    allowed = np.ones((n, len(AMINO)), bool)
    allowed[:, np.isin(alphabet, _checked(exclude, "exclude"))] = False
    for where, text in (letters or {}).items():
        some = np.isin(alphabet, _checked(text, "letters"))
        here = select(structure, where, "letters")
        if (both := here[fixed[here] & ~some[structure.tokens[here]]]).size:
            residue = structure.residues[both[0]]
            raise InfeasibleError(f"{residue.label} keeps {residue.letter}, which {where}:{text} does not allow: they "
                                  "contradict each other", field="letters", value=f"{where}:{text}",
                                  hint="keep fewer residues, or fix others")  # fmt: skip
        allowed[here] &= some
    empty = np.flatnonzero(~allowed.any(1) & ~fixed)
    if len(empty):
        raise InfeasibleError("no letter is left", field="letters", value=structure.residues[empty[0]].label)
    if fixed.all():
        raise InfeasibleError("every residue is fixed: nothing is left to design", field="fix", value=fix)
    allowed[fixed] = np.eye(len(AMINO), dtype=bool)[structure.tokens[fixed]]
    return Sites(structure, allowed, fixed)


def _checked(text: str, field: str) -> list[str]:
    """Return the letters of a text, all of them residues."""
    for letter in text.upper():
        if letter not in AMINO:
            raise UsageError("is not one of the twenty residues", field=field, value=letter, choices=list(AMINO))
    return list(text.upper())

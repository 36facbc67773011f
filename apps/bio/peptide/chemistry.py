"""Peptides as molecules: RDKit builds them, certifies them and writes them for chemists.

A peptide is a row of residues, L in capitals and D in small letters, maybe closed head to tail, maybe with disulfide
bridges between cysteines. HELM is written and read here and handed to RDKit; `from_smiles` goes the other way round:
it cuts the backbone amides and the disulfides of any molecule and looks each piece up among the forty residues, so
that a SMILES that leaves this program comes back as the same peptide (a cycle up to where it is opened).

All properties are RDKit's. Charge at pH 7 is the formal charge once amines and guanidines are protonated and
carboxylic acids are not (histidine stays neutral).

Reference: Zhang et al., 2012, doi 10.1021/ci3001925 (HELM).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from io import StringIO
from pathlib import Path
from typing import Any

from apps.bio.protein.data import AMINO
from core.errors import DataError, UsageError

__all__ = ["PROPERTIES", "Peptide", "from_helm", "from_smiles", "properties", "sdf_text", "write_sdf"]

PROPERTIES = ("charge", "weight", "donors", "logp", "tpsa")
"""Charge at pH 7; average mass in dalton; hydrogen-bond donors; Crippen's logP; polar surface in square angstrom."""

ACID, BASE = "[CX3](=O)[OX2H1:1]", "[NX3;H2,H1;!$(N-C=[O,N,S]);!$(N-c);$(N-[CX4]):1]"
GUANIDINE = "[NX3][CX3](=[NX2;H1:1])[NX3]"


@dataclass(frozen=True)
class Peptide:
    """A peptide.

    Args:
        residues: one letter each; small letters are D.
        cyclic: closed head to tail.
        bridges: pairs of cysteines, positions from 0, joined by disulfides.
    """

    residues: str
    cyclic: bool = False
    bridges: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        """Refuse what is no such peptide."""
        for letter in self.residues.upper():
            if letter not in AMINO:
                raise UsageError("is not one of the twenty residues", field="residues", value=letter)
        if len(self.residues) < (3 if self.cyclic else 1):
            raise UsageError("too short for that topology", field="residues", value=self.residues)
        ends = [i for pair in self.bridges for i in pair]
        if len(set(ends)) < len(ends) or any(not 0 <= i < len(self.residues) for i in ends):
            raise UsageError("names a residue twice, or one that is not there", field="bridges", value=self.bridges)
        if wrong := [i for i in ends if self.residues[i].upper() != "C"]:
            raise UsageError("only cysteines form disulfides", field="bridges", value=wrong[0])

    @property
    def helm(self) -> str:
        """Return the HELM notation."""
        names = [r if r.isupper() or r == "g" else f"[d{r.upper()}]" for r in self.residues.replace("g", "G")]
        links = [f"{len(names)}:R2-1:R1"] if self.cyclic else []
        links += [f"{i + 1}:R3-{j + 1}:R3" for i, j in self.bridges]
        return f"PEPTIDE1{{{'.'.join(names)}}}${'|'.join(f'PEPTIDE1,PEPTIDE1,{k}' for k in links)}$$$"

    @cached_property
    def mol(self) -> Any:
        """Return the RDKit molecule, checked."""
        from rdkit import Chem

        found = Chem.MolFromHELM(self.helm)
        if found is None:
            raise DataError("RDKit refuses the molecule", field="peptide", value=self.helm)
        Chem.SanitizeMol(found)
        return found

    @property
    def smiles(self) -> str:
        """Return RDKit's canonical SMILES."""
        from rdkit import Chem

        return Chem.MolToSmiles(self.mol)

    def rotated(self, start: int) -> Peptide:
        """Return the same cycle opened elsewhere."""
        n = len(self.residues)
        moved = sorted(tuple(sorted(((i - start) % n, (j - start) % n))) for i, j in self.bridges)
        return replace(self, residues=self.residues[start:] + self.residues[:start], bridges=tuple(moved))

    @property
    def standard(self) -> Peptide:
        """Return one form of the peptide: glycines in capitals, bridges sorted, a cycle opened at the least letters."""
        plain = replace(self, residues=self.residues.replace("g", "G")).rotated(0)
        if not self.cyclic:
            return plain
        return min((plain.rotated(k) for k in range(len(self.residues))), key=lambda p: (p.residues, p.bridges))


def from_helm(text: str) -> Peptide:
    """Read the HELM of one peptide, as `Peptide.helm` writes it.

    Raises:
        DataError: other polymers, monomers or links.
    """
    match = re.fullmatch(r"PEPTIDE1\{([^}]*)\}\$([^$]*)\$\$\$(?:V2\.0)?", text.strip())
    if match is None:
        raise DataError("is not the HELM of one peptide", field="helm", value=text)
    residues = ""
    for name in match[1].split("."):
        inner = re.fullmatch(r"\[d([A-Z])\]|([A-Z])", name)
        if inner is None:
            raise DataError("is not one of the twenty residues, L or D", field="helm", value=name)
        residues += inner[1].lower() if inner[1] else inner[2]
    cyclic, bridges = False, []
    for link in filter(None, match[2].split("|")):
        inner = re.fullmatch(r"PEPTIDE1,PEPTIDE1,(\d+):R([123])-(\d+):R([123])", link)
        ends = inner and (int(inner[1]), inner[2], int(inner[3]), inner[4])
        if ends and ends[1] == ends[3] == "3":
            bridges.append((ends[0] - 1, ends[2] - 1))
        elif ends in ((len(residues), "2", 1, "1"), (1, "1", len(residues), "2")):
            cyclic = True
        else:
            raise DataError("is neither head to tail nor a disulfide", field="helm", value=link)
    return Peptide(residues, cyclic, tuple(bridges))


def _pieces(mol: Any) -> tuple[list[tuple[int, ...]], list[str], list[tuple[int, int]], list[tuple[int, int]]]:
    """Cut backbone amides and disulfides: atoms and SMILES of the pieces, the bonds (C, N) and (S, S) that were cut."""
    from rdkit import Chem

    amide = Chem.MolFromSmarts("[NX3][CX4][CX3](=O)[NX3][CX4][CX3](=O)")
    sulfur = Chem.MolFromSmarts("[CH2][SX2][SX2][CH2]")
    peptide = sorted({(m[2], m[4]) for m in mol.GetSubstructMatches(amide)})
    bridge = sorted({tuple(sorted((m[1], m[2]))) for m in mol.GetSubstructMatches(sulfur)})
    bonds = [mol.GetBondBetweenAtoms(a, b).GetIdx() for a, b in [*peptide, *bridge]]
    if not bonds:
        return [tuple(range(mol.GetNumAtoms()))], [Chem.MolToSmiles(mol)], peptide, bridge
    cut = Chem.FragmentOnBonds(mol, bonds, dummyLabels=[(0, 0)] * len(bonds))
    atoms = Chem.GetMolFrags(cut)
    names = [Chem.MolToSmiles(f) for f in Chem.GetMolFrags(cut, asMols=True)]
    return list(atoms), names, peptide, bridge


@cache
def _library() -> dict[str, str]:
    """Return the residue of each piece's SMILES: first, middle, last and alone, with and without a disulfide."""
    found: dict[str, str] = {}
    for letter in [*AMINO, *AMINO.lower().replace("g", "")]:
        models = [Peptide(letter), Peptide(letter + "AA"), Peptide("A" + letter + "A"), Peptide("AA" + letter)]
        places = [0, 0, 1, 2]
        if letter in "Cc":
            models += [Peptide(letter + "AC", bridges=((0, 2),)), Peptide("A" + letter + "AC", bridges=((1, 3),))]
            models += [Peptide("CA" + letter, bridges=((0, 2),))]
            places += [0, 1, 2]
        for peptide, place in zip(models, places, strict=True):
            order, names = _order(peptide.mol)
            found[names[order[place]]] = letter
    return found


def _order(mol: Any) -> tuple[list[int], list[str]]:
    """Return the pieces of a linear or cyclic peptide from its first residue on, and their SMILES."""
    atoms, names, peptide, _ = _pieces(mol)
    where = {a: k for k, group in enumerate(atoms) for a in group}
    after = {where[c]: where[n] for c, n in peptide}
    first = set(range(len(atoms))) - set(after.values())
    order = [min(first) if first else 0]
    while (following := after.get(order[-1])) is not None and following != order[0]:
        order.append(following)
    return order, names


def from_smiles(text: str) -> Peptide:
    """Read a molecule as a peptide of the twenty residues, L or D, by its bonds alone.

    Raises:
        DataError: it is none.
    """
    from rdkit import Chem

    mol = Chem.MolFromSmiles(text)
    if mol is None:
        raise DataError("RDKit cannot read it", field="smiles", value=text)
    atoms, names, peptide, bridge = _pieces(mol)
    order, _ = _order(mol)
    where = {a: k for k, group in enumerate(atoms) for a in group}
    if len(order) != len(atoms):
        raise DataError("is not one chain of residues", field="smiles", value=text)
    if wrong := [n for n in names if n not in _library()]:
        raise DataError("holds a residue that is none of the twenty", field="smiles", value=wrong[0])
    rank = {k: i for i, k in enumerate(order)}
    pairs = ((rank[where[a]], rank[where[b]]) for a, b in bridge)
    bridges = tuple(sorted((min(pair), max(pair)) for pair in pairs))
    cyclic = len(peptide) == len(atoms) and len(atoms) > 1
    return Peptide("".join(_library()[names[k]] for k in order), cyclic, bridges)


def charged(mol: Any) -> Any:
    """Return the molecule as it is at pH 7."""
    from rdkit import Chem

    out = Chem.RWMol(mol)
    for smarts, sign in ((ACID, -1), (BASE, 1), (GUANIDINE, 1)):
        pattern = Chem.MolFromSmarts(smarts)
        marked = next(a.GetIdx() for a in pattern.GetAtoms() if a.GetAtomMapNum())
        for match in mol.GetSubstructMatches(pattern):
            atom = out.GetAtomWithIdx(match[marked])
            atom.SetFormalCharge(sign)
            atom.SetNoImplicit(False)
            atom.SetNumExplicitHs(0)
    done = out.GetMol()
    Chem.SanitizeMol(done)
    return done


def properties(peptide: Peptide) -> dict[str, float]:
    """Return the properties that RDKit computes, by name as in `PROPERTIES`."""
    from rdkit import Chem
    from rdkit.Chem import Crippen, Descriptors, rdMolDescriptors

    mol = peptide.mol
    return {
        "charge": float(Chem.GetFormalCharge(charged(mol))),
        "weight": float(Descriptors.MolWt(mol)),  # type: ignore[attr-defined]
        "donors": float(rdMolDescriptors.CalcNumHBD(mol)),
        "logp": float(Crippen.MolLogP(mol)),  # type: ignore[attr-defined]
        "tpsa": float(rdMolDescriptors.CalcTPSA(mol)),
    }


def sdf_text(peptides: Sequence[Peptide], names: Sequence[str] = (), more: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return SDF text: peptides with drawn coordinates, HELM, SMILES and properties.

    Args:
        peptides: n of them.
        names: n titles; by default numbers.
        more: for each peptide, further fields.
    """
    from rdkit import Chem
    from rdkit.Chem import AllChem

    out = StringIO()
    with Chem.SDWriter(out) as writer:
        for i, peptide in enumerate(peptides):
            mol = Chem.Mol(peptide.mol)
            AllChem.Compute2DCoords(mol)  # type: ignore[attr-defined]
            mol.SetProp("_Name", names[i] if names else f"peptide_{i}")
            fields = {
                "HELM": peptide.helm,
                "SMILES": peptide.smiles,
                **properties(peptide),
                **(more[i] if more else {}),
            }
            for name, value in fields.items():
                mol.SetProp(name, str(value))
            writer.write(mol)
    return out.getvalue()


def write_sdf(peptides: Sequence[Peptide], path: str | Path) -> None:
    """Write `sdf_text`."""
    Path(path).write_text(sdf_text(peptides), encoding="utf-8")

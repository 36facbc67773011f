"""Structures from files and back: PDB and mmCIF through Biopython, author numbering kept.

What is read: the first model; of alternative locations the one with the highest summed occupancy over a residue's
atoms (the first letter among equals), of several residues at one place the likeliest; modified residues (MSE, SEP,
PCA, ...) as the parent residue; a missing O is built in the peptide plane. Residues without N, CA or C, residues
without a parent and amino acids that are ligands (HETATM, bonded to no residue) are left out of the model's sight,
listed with the reason, and written back as they were.

What is written: the structure as read, with a designed residue renamed, its side chain beyond CB dropped where the
letter changed, and its B-factor set to the confidence in percent (100 where nothing was designed).
"""

from __future__ import annotations

import copy
import gzip
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apps.bio.protein.data import AMINO, BOND, Backbones, joined, places
from core.errors import DataError, UsageError

__all__ = ["Residue", "Structure", "of_chain", "read_structure"]

BACKBONE = ("N", "CA", "C", "O")
KEPT = {"N", "CA", "C", "O", "OXT", "CB", "H", "HA", "H1", "H2", "H3"}
"""Atoms that a residue keeps when its letter changes."""

LACKING = {"G": {"CB", "HA"}, "P": {"H", "H1"}}
"""Those of them that a residue has not: the side chain of glycine, the amide hydrogen of proline."""


@dataclass(frozen=True)
class Residue:
    """One residue of a chain: author number, insertion code, name in the file, letter of the parent residue."""

    chain: str
    number: int
    insertion: str
    name: str
    letter: str

    @property
    def label(self) -> str:
        """Return the name that selectors use: `A95B`, `AA:95B` where the chain's name is not one letter, or `:95B`."""
        chain = self.chain.strip()
        colon = "" if len(chain) == 1 and chain.isalpha() else ":"
        return f"{chain}{colon}{self.number}{self.insertion}"


@dataclass(frozen=True, eq=False)
class Structure:
    """A structure as the model sees it, and the file's own content.

    Args:
        name: of the file.
        residues: those that the model sees, chain after chain.
        coords: N, CA, C, O, float32 [N, 4, 3], angstrom.
        left_out: label and reason of each residue that the model does not see.
        model: the Biopython model, for writing.
        keys: Biopython's (chain, residue id) of each residue.
    """

    name: str
    residues: tuple[Residue, ...]
    coords: np.ndarray
    left_out: tuple[tuple[str, str], ...]
    model: Any
    keys: tuple[tuple[str, tuple[str, int, str]], ...]

    @property
    def sequence(self) -> str:
        """Return the native letters."""
        return "".join(r.letter for r in self.residues)

    @property
    def tokens(self) -> np.ndarray:
        """Return the native letters as tokens, int64 [N]."""
        return np.array([AMINO.index(r.letter) for r in self.residues], np.int64)

    @property
    def chain(self) -> np.ndarray:
        """Return the number of each residue's chain, int64 [N]."""
        names = list(dict.fromkeys(r.chain for r in self.residues))
        return np.array([names.index(r.chain) for r in self.residues], np.int64)

    @property
    def bonded(self) -> np.ndarray:
        """Return which residues are joined to the one before, bool [N]."""
        return joined(self.coords) & np.concatenate([[False], self.chain[1:] == self.chain[:-1]])

    @property
    def place(self) -> np.ndarray:
        """Return positions along the chains, int64 [N]."""
        return places(np.array([r.number for r in self.residues]), self.bonded)

    @property
    def gaps(self) -> list[tuple[str, str]]:
        """Return the residues on either side of each break within a chain: something is missing between them."""
        broken = np.flatnonzero(~self.bonded[1:] & (self.chain[1:] == self.chain[:-1]))
        return [(self.residues[i].label, self.residues[i + 1].label) for i in broken]

    @property
    def unfit(self) -> str:
        """Return why PDB, whose columns are narrow, cannot hold the structure; "" where it can."""
        chains, rows = list(self.model), [r for chain in self.model for r in chain.get_unpacked_list()]
        atoms = [a for r in rows for a in r.get_unpacked_list()]
        at = np.array([a.coord for a in atoms])
        reasons = {
            "PDB has one letter for a chain's name": any(len(c.id) > 1 for c in chains),
            "PDB has three letters for a residue's name": any(len(r.resname.strip()) > 3 for r in rows),
            "PDB has four digits for a residue's number": any(not -999 <= r.id[1] <= 9999 for r in rows),
            "PDB has five digits for an atom's number": any((a.serial_number or 0) > 99999 for a in atoms),
            "PDB has eight places for a coordinate": bool(((at <= -999.9995) | (at >= 9999.9995)).any()),
        }
        return next((why for why, holds in reasons.items() if holds), "")

    def by_chain(self, letters: str) -> dict[str, str]:
        """Return a designed sequence, one letter per residue, as one sequence for each chain."""
        out: dict[str, str] = {}
        for residue, letter in zip(self.residues, letters, strict=True):
            out[residue.chain] = out.get(residue.chain, "") + letter
        return out

    def write(self, path: Path, letters: str, confidence: Sequence[float], remarks: Sequence[str] = ()) -> None:
        """Write a designed sequence on this structure.

        Args:
            path: ends in `.pdb` or `.cif`.
            letters: one for each residue.
            confidence: 0 ... 1 for each residue.
            remarks: lines for the head of a PDB file.

        Raises:
            UsageError: PDB cannot hold the structure (`unfit`); another ending.
        """
        path.write_text(self.render(path.suffix.lower(), letters, confidence, remarks))

    def render(self, suffix: str, letters: str, confidence: Sequence[float], remarks: Sequence[str] = ()) -> str:
        """Return the text of a designed structure (arguments as in `write`)."""
        from Bio.PDB.mmcifio import MMCIFIO
        from Bio.PDB.PDBIO import PDBIO

        if suffix not in {".pdb", ".cif"}:
            raise UsageError("structures are written as .pdb or .cif", field="out", value=suffix)
        if suffix == ".pdb" and (why := self.unfit):
            raise UsageError(why, field="out", value=suffix, hint="write .cif")
        model = copy.deepcopy(self.model)
        for atom in (a for chain in model for r in chain.get_unpacked_list() for a in r.get_unpacked_list()):
            atom.set_bfactor(100.0)
        for key, old, new, sure in zip(self.keys, self.sequence, letters, confidence, strict=True):
            _mutate(model[key[0]], key[1], old, new, 100.0 * float(sure))
        writer: Any = PDBIO() if suffix == ".pdb" else MMCIFIO()
        writer.set_structure(model)
        text = io.StringIO()
        writer.save(text, **({"preserve_atom_numbering": True} if suffix == ".pdb" else {}))
        head = "".join(f"REMARK 950 {line[:68]}\n" for line in remarks) if suffix == ".pdb" else ""
        return head + text.getvalue()


def _mutate(chain: Any, key: tuple[str, int, str], old: str, new: str, confidence: float) -> None:
    """Rename a residue in place and drop the atoms that its new side chain lacks."""
    from Bio.Data.PDBData import protein_letters_1to3

    residue = chain[key]
    rivals = [r for r in chain if r.id[1:] == key[1:] and r is not residue]
    for other in [r.id for r in rivals if r.id[0] == " " or _whole(r)]:
        chain.detach_child(other)  # MET beside MSE: keep the one that was read
    if residue.is_disordered() == 2:  # several residues at one place: keep the one that was read
        residue = _likeliest(residue)
        at = chain.child_list.index(chain[key])
        chain.detach_child(key)
        chain.insert(at, residue)
    if new != old:
        kept = KEPT - LACKING.get(new, set())
        for atom in [a.id for a in residue if a.id not in kept]:
            residue.detach_child(atom)
        residue.resname = protein_letters_1to3[new].upper()
        if key[0] != " ":
            residue.id = (" ", key[1], key[2])
    for atom in residue.get_unpacked_list():
        atom.set_bfactor(confidence)


def _likeliest(residue: Any) -> Any:
    """Return the residue of a point mutation in the crystal that has the highest occupancy."""
    return max(residue.disordered_get_list(), key=_occupancy)


def _occupancy(residue: Any) -> float:
    """Return the mean occupancy of a residue's atoms."""
    return float(np.mean([a.get_occupancy() or 0.0 for a in residue]))


def _whole(residue: Any) -> bool:
    """Tell whether a residue has a backbone."""
    return all(name in residue for name in BACKBONE[:3])


def _rivals(chain: Any) -> set[tuple[str, int, str]]:
    """Return the ids of residues at whose place a likelier one stands under another id: MET beside MSE."""
    places: dict[tuple[int, str], list[Any]] = {}
    for residue in chain:
        one = _likeliest(residue) if residue.is_disordered() == 2 else residue
        if _whole(one):
            places.setdefault(residue.id[1:], []).append(one)
    return {r.id for group in places.values() for r in group if r is not max(group, key=_occupancy)}


def _backbone(residue: Any) -> dict[str, np.ndarray]:
    """Return the backbone atoms of one alternative location."""
    total: dict[str, float] = {}
    for atom in residue:
        if atom.is_disordered():
            for letter in atom.disordered_get_id_list():
                total[letter] = total.get(letter, 0.0) + (atom.disordered_get(letter).get_occupancy() or 0.0)
    chosen = min(total, key=lambda a: (-round(total[a], 6), a)) if total else ""
    found = {}
    for name in BACKBONE:
        if name in residue:
            atom = residue[name]
            if atom.is_disordered() and chosen in atom.disordered_get_id_list():
                atom = atom.disordered_get(chosen)
            found[name] = np.asarray(atom.coord, np.float32)
    return found


def _oxygen(atoms: dict[str, np.ndarray], following: np.ndarray | None) -> np.ndarray:
    """Return where O stands: opposite to CA and the next N, 1.23 angstrom from C."""
    away = atoms["CA"] - atoms["C"]
    other = (following - atoms["C"]) if following is not None else (atoms["N"] - atoms["CA"])
    direction = -(away / np.linalg.norm(away) + other / np.linalg.norm(other))
    return atoms["C"] + 1.23 * direction / np.linalg.norm(direction)


def of_chain(data: Backbones, i: int) -> Structure:
    """Return chain `i` of a set of backbones as a structure that can be designed, but not written."""
    letters = [AMINO[v] for v in data.tokens[i]]
    residues = tuple(Residue("A", int(n), "", a, a) for n, a in zip(data.number[i], letters, strict=True))
    return Structure(data.names[i], residues, data.coords[i], (), None, ())


def read_structure(path: str | Path, chains: Sequence[str] | None = None) -> Structure:
    """Read a PDB or mmCIF file, plain or gzipped.

    Args:
        path: ends in `.pdb`, `.ent`, `.cif` or `.mmcif`, maybe followed by `.gz`.
        chains: author names of the chains to design and to see; all by default.

    Raises:
        DataError: missing, unreadable, or without any complete residue.
        UsageError: no such chain.
    """
    path = Path(path)
    model = _parse(path)
    names = [c.id for c in model]
    for name in chains or ():
        if name not in names:
            raise UsageError("no such chain", field="chains", value=name, choices=names)
    left: list[tuple[str, str]] = []
    rows = [row for chain in model if chains is None or chain.id in chains for row in _residues(chain, left)]
    found = _joined(rows, left)
    if not found:
        raise DataError("holds no residue with N, CA and C", field=str(path))
    coords = []
    for i, (_, _, atoms) in enumerate(found):
        if "O" not in atoms:
            after = found[i + 1][2]["N"] if i + 1 < len(found) and found[i + 1][0].chain == found[i][0].chain else None
            near = after is not None and np.linalg.norm(after - atoms["C"]) < 2.0
            atoms["O"] = _oxygen(atoms, after if near else None)
        coords.append(np.stack([atoms[name] for name in BACKBONE]))
    residues, keys = tuple(r for r, _, _ in found), tuple(k for _, k, _ in found)
    return Structure(path.name, residues, np.stack(coords).astype(np.float32), tuple(left), model, keys)


def _residues(chain: Any, left: list[tuple[str, str]]) -> Any:
    """Yield (Residue, key, backbone atoms) of a chain; residues that cannot be used go to `left`."""
    from Bio.Data.PDBData import protein_letters_3to1_extended as parents

    rivals = _rivals(chain)
    for residue in chain:
        if residue.is_disordered() == 2:
            residue = _likeliest(residue)
        flag, number, insertion = residue.id
        atoms, name = _backbone(residue), residue.resname.strip()
        letter = parents.get(name, "X")
        if flag == "W" or (flag != " " and not _whole(residue)):
            continue  # water, ions, ligands, caps
        record = Residue(chain.id, int(number), insertion.strip(), name, letter)
        lacking = [a for a in BACKBONE[:3] if a not in atoms]
        if letter not in AMINO:
            left.append((record.label, f"{name} has no parent among the twenty"))
        elif lacking:
            left.append((record.label, f"{name} lacks {', '.join(lacking)}"))
        elif residue.id in rivals:
            left.append((record.label, f"{name} has a likelier residue at its place"))
        else:
            yield record, (chain.id, residue.id), atoms


def _joined(rows: list[Any], left: list[tuple[str, str]]) -> list[Any]:
    """Return the rows of `_residues` less amino acids that are ligands: HETATM, bonded to no residue of their chain."""
    out = []
    for k, row in enumerate(rows):
        both = [rows[i : i + 2] for i in (k - 1, k) if 0 <= i < len(rows) - 1]
        pairs = [(a, b) for a, b in both if a[0].chain == b[0].chain]
        if row[1][1][0] == " " or any(np.linalg.norm(b[2]["N"] - a[2]["C"]) < BOND for a, b in pairs):
            out.append(row)
        else:
            left.append((row[0].label, f"{row[0].name} is bonded to no residue: a ligand"))
    return out


def _builder() -> Any:
    """Return Biopython's builder for files in which the atoms of several residues at one place alternate.

    Its own loses all but the first of them: it goes back to a residue that it knows, and then makes it once more.
    """
    from Bio.PDB.StructureBuilder import StructureBuilder

    class Builder(StructureBuilder):
        def init_residue(self, resname: str, field: str, resseq: int, icode: str) -> None:
            key = (f"H_{resname}" if field == "H" else field, resseq, icode)
            chain: Any = self.chain
            held = chain.child_dict.get(key)
            if held is not None and held.is_disordered() == 2 and held.disordered_has_id(resname):
                held.disordered_select(resname)
                self.residue = held
            elif held is not None and field == "H":
                self.residue = held
            else:
                super().init_residue(resname, field, resseq, icode)

    return Builder()


def _parse(path: Path) -> Any:
    """Return the first model of a file."""
    from Bio.PDB.MMCIFParser import MMCIFParser
    from Bio.PDB.PDBParser import PDBParser

    kinds = {".pdb": PDBParser, ".ent": PDBParser, ".cif": MMCIFParser, ".mmcif": MMCIFParser}
    packed = path.suffix.lower() == ".gz"
    plain = Path(path.stem) if packed else path
    if plain.suffix.lower() not in kinds:
        raise DataError("is neither PDB nor mmCIF by its name", field=str(path), choices=list(kinds))
    try:
        data = io.BytesIO(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
        text = io.TextIOWrapper(data, encoding="utf-8", errors="replace").read()  # remarks may hold names
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parser = kinds[plain.suffix.lower()](structure_builder=_builder(), QUIET=True)
            structure = parser.get_structure(path.name, io.StringIO(text))
        return next(iter(structure))
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})", field=str(path)) from None
    except Exception as error:  # Biopython raises many kinds on damaged files
        reason = str(error) or type(error).__name__
        raise DataError(f"is not a structure that Biopython reads ({reason})", field=str(path)) from None

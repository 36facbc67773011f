"""Built-in rewards of sequences; `apps.bio.expressions` names and combines them.

| name | value | unit | of laws |
|---|---|---|---|
| oracle(folder) | predicted activity | that of its labels | yes |
| pwm(motif, collection) | log-sum over sites and strands of the motif's odds | nats | yes |
| gc(lo, hi) | minus the distance of the G + C share from [lo, hi] | share | yes |
| tm(target) | nearest-neighbour melting temperature, or minus its distance from a target | kelvin | yes |
| cai(reference) | codon adaptation index in frame 0 to the genes of a FASTA file | 0 to 1 | yes |
| hairpin(stem, reach) | minus the stems that can fold on themselves per letter | 1 / letter | yes |
| gravy, charge, isoelectric, instability, aromaticity, weight | of Biopython's ProtParam | its own | gravy only |
| ddg(folder) | stability against the native one on a backbone (`protein.potential`) | kcal/mol | yes |
| table(file, missing) | the measured value of exactly this sequence | the file's | no |

Rewards are maximised as they stand; `-1 * instability()` turns one round. An oracle's value is a prediction, no
measurement (`apps.bio.oracle`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from apps.bio.model import LETTERS
from core.errors import DataError, UsageError

__all__ = [
    "PROTEIN", "Cai", "Gc", "Gravy", "Hairpin", "Lookup", "MeltingTemperature", "ProtParam", "Pwm", "cai", "pwm",
    "table",
]  # fmt: skip


class _Soft:
    """A reward of DNA given by its value at laws."""

    letters = LETTERS["dna"]

    def score(self, x: Tensor) -> Tensor:
        """Return the value of tokens int64 [B, L], float64 [B]."""
        with torch.no_grad():
            return self.soft(one_hot(x, 4).double())

    def soft(self, p: Tensor) -> Tensor:
        """Return the value of laws [B, L, 4], [B]."""
        raise NotImplementedError


@dataclass(frozen=True)
class Gc(_Soft):
    """Minus the distance of the expected G + C share from [lo, hi]; 0 inside."""

    lo: float = 0.4
    hi: float = 0.6
    name: str = "gc"
    unit: str = "share of letters"

    def __post_init__(self) -> None:
        """Refuse bounds that are no shares."""
        if not 0 <= self.lo <= self.hi <= 1:
            raise UsageError("0 <= lo <= hi <= 1 is needed, shares and no percents", field="gc",
                             value=(self.lo, self.hi))  # fmt: skip

    def soft(self, p: Tensor) -> Tensor:
        """Return the value of laws [B, L, 4], [B]."""
        share = p[..., 1:3].sum(-1).mean(-1)
        return -((self.lo - share).clamp_min(0) + (share - self.hi).clamp_min(0))


@dataclass(frozen=True)
class MeltingTemperature(_Soft):
    """Nearest-neighbour melting temperature against the perfect complement, in degrees Celsius.

    dH and dS are sums over neighbouring pairs (Allawi and SantaLucia 1997) and the two ends; with both strands at
    25 nM and 50 mM sodium as in `Bio.SeqUtils.MeltingTemp.Tm_NN`, Tm = 1000 dH / (dS + R ln k) - 273.15. With a target
    the value is minus the distance from it. Of laws, dH and dS are expectations under independent sites.
    """

    target: float | None = None
    name: str = "tm"
    unit: str = "degree Celsius"

    def soft(self, p: Tensor) -> Tensor:
        """Return the value of laws [B, L, 4], [B]."""
        pairs, ends = _neighbours()
        inner = torch.einsum("bia,bic,hac->bh", p[:, :-1], p[:, 1:], pairs.to(p))
        total = inner + torch.einsum("bia,ha->bh", p[:, [0, -1]], ends.to(p))
        salt = 0.368 * (p.shape[1] - 1) * float(np.log(0.05))
        entropy = total[:, 1] + salt + 1.987 * float(np.log((25 - 25 / 2) * 1e-9))
        kelvin = 1000 * total[:, 0] / entropy - 273.15
        return kelvin if self.target is None else -(kelvin - self.target).abs()


def _neighbours() -> tuple[Tensor, Tensor]:
    """Return dH, dS of pairs of letters [2, 4, 4] and of end letters [2, 4], kcal/mol and cal/(mol K)."""
    from Bio.SeqUtils.MeltingTemp import DNA_NN3 as table

    letters, other = "ACGT", dict(zip("ACGT", "TGCA", strict=True))
    pairs = torch.zeros(2, 4, 4, dtype=torch.float64)
    for i, a in enumerate(letters):
        for j, b in enumerate(letters):
            key = f"{a}{b}/{other[a]}{other[b]}"
            pairs[:, i, j] = torch.tensor(table[key if key in table else key[::-1]], dtype=torch.float64)
    at, cg = (torch.tensor(table[f"init_{k}"], dtype=torch.float64) for k in ("A/T", "G/C"))
    return pairs, torch.stack([at, cg, cg, at], 1)


@dataclass(frozen=True, eq=False)
class Pwm(_Soft):
    """How strongly a motif binds: the log of the summed odds against even letters over all sites and both strands.

    Args:
        odds: log-odds [w, 4] of the motif.
        name: its name.
    """

    odds: Tensor
    name: str = "pwm"
    unit: str = "nats"

    def soft(self, p: Tensor) -> Tensor:
        """Return the value of laws [B, L, 4], [B]; the log-odds of a site of laws are expectations."""
        if p.shape[1] < len(self.odds):
            raise UsageError("is longer than the sequence", field="pwm", value=self.name)
        filters = torch.stack([self.odds, self.odds.flip(0, 1)]).transpose(1, 2).to(p)
        return torch.conv1d(p.transpose(1, 2), filters).flatten(1).logsumexp(-1)


@dataclass(frozen=True, eq=False)
class Cai(_Soft):
    """Codon adaptation index in frame 0 (Sharp and Li 1987): the geometric mean of the codons' relative adaptiveness.

    ATG, TGG and stop codons do not count. Of laws: exp of the expected sum over the expected number.

    Args:
        log_w: log adaptiveness of the codons [4, 4, 4].
        counts: 1 where a codon counts [4, 4, 4].
    """

    log_w: Tensor
    counts: Tensor
    name: str = "cai"
    unit: str = "geometric mean, 0 to 1"

    def soft(self, p: Tensor) -> Tensor:
        """Return the value of laws [B, L, 4], [B]."""
        codons = p[:, : p.shape[1] // 3 * 3].unflatten(1, (-1, 3))
        law = torch.einsum("bna,bnc,bnd->bacd", codons[:, :, 0], codons[:, :, 1], codons[:, :, 2])
        total, number = ((law * v.to(p)).sum((1, 2, 3)) for v in (self.log_w, self.counts))
        return (total / number.clamp_min(1e-9)).exp()


@dataclass(frozen=True)
class Hairpin(_Soft):
    """Minus the expected number of stems of `stem` pairs that close a loop of 3 to `reach` letters, per letter.

    A proxy: it counts places where a strand can pair with itself and knows no energies.
    """

    stem: int = 5
    reach: int = 30
    name: str = "hairpin"
    unit: str = "stems per letter"

    def soft(self, p: Tensor) -> Tensor:
        """Return the value of laws [B, L, 4], [B]."""
        length, total = p.shape[1], p.new_zeros(len(p))
        opposite = p.flip(-1)
        for loop in range(3, self.reach + 1):
            # the pairs of one stem lie at distances loop + 1, loop + 3, ... around one centre
            if length < 2 * self.stem + loop:
                break
            starts = length - 2 * self.stem - loop + 1
            chain = p.new_ones(len(p), starts)
            for k in range(self.stem):
                far = 2 * self.stem + loop - 1 - k
                chain = chain * (p[:, k : k + starts] * opposite[:, far : far + starts]).sum(-1)
            total = total + chain.sum(-1)
        return -total / length


@dataclass(frozen=True)
class ProtParam:
    """A property of proteins by Biopython's `ProtParam`: gravy, charge (pH 7), isoelectric, instability, ...

    `gravy` is linear in laws; the others have no `soft`.
    """

    letters = LETTERS["protein"]

    what: str
    name: str
    unit: str

    def score(self, x: Tensor) -> Tensor:
        """Return the property of residue tokens int64 [B, L], float64 [B]."""
        from Bio.SeqUtils.ProtParam import ProteinAnalysis

        ways: dict[str, Callable[[Any], float]] = {
            "gravy": lambda a: a.gravy(), "charge": lambda a: a.charge_at_pH(7.0),
            "isoelectric": lambda a: a.isoelectric_point(), "instability": lambda a: a.instability_index(),
            "aromaticity": lambda a: a.aromaticity(), "weight": lambda a: a.molecular_weight(),
        }  # fmt: skip
        letters = np.array(list(LETTERS["protein"]))
        text = ["".join(letters[row]) for row in x.cpu().numpy()]
        return torch.tensor([ways[self.what](ProteinAnalysis(s)) for s in text], dtype=torch.float64)


@dataclass(frozen=True)
class Gravy(ProtParam):
    """The grand average of hydropathy (Kyte and Doolittle 1982), also of laws."""

    what: str = "gravy"
    name: str = "gravy"
    unit: str = "mean hydropathy"

    def soft(self, p: Tensor) -> Tensor:
        """Return the expectation at laws [B, L, 20], [B]."""
        from Bio.SeqUtils.ProtParamData import kd

        return (p @ torch.tensor([kd[a] for a in LETTERS["protein"]]).to(p)).mean(-1)


@dataclass(frozen=True, eq=False)
class Lookup:
    """The value that a table holds for exactly this sequence, `missing` for others.

    Args:
        values: by sequence.
        letters: the alphabet of the tokens.
        missing: for sequences that the table lacks.
    """

    values: dict[str, float]
    letters: str
    missing: float = float("-inf")
    name: str = "table"
    unit: str = "as in the file"

    def score(self, x: Tensor) -> Tensor:
        """Return the values of tokens int64 [B, L], float64 [B]."""
        letters = np.array(list(self.letters))
        found = [self.values.get("".join(letters[row]), self.missing) for row in x.cpu().numpy()]
        return torch.tensor(found, dtype=torch.float64)


def pwm(motif: str, collection: str = "") -> Pwm:
    """Return the reward of an IUPAC motif, or of a motif named in a MEME file.

    Raises:
        UsageError: no such motif, or a letter that is not IUPAC.
    """
    from apps.bio.dna.pwms import consensus, read_motifs

    if not collection:
        return Pwm(torch.from_numpy(consensus(motif)), f"pwm({motif})")
    known = read_motifs(Path(collection))
    if motif not in known:
        raise UsageError("is not in the collection", field="pwm", value=motif, choices=known)
    matrix = (known[motif] + 0.01) / (known[motif] + 0.01).sum(1, keepdims=True)
    return Pwm(torch.from_numpy(np.log(matrix / 0.25)), f"pwm({motif})")


def cai(reference: str) -> Cai:
    """Return the reward of codons as the genes of a FASTA file use them.

    Raises:
        DataError: the file is absent or holds no whole codons.
    """
    from Bio.Data.CodonTable import standard_dna_table as code
    from Bio.SeqUtils import CodonAdaptationIndex

    from apps.bio.records import read_fasta

    if not Path(reference).is_file():
        raise DataError("no such file", field="cai", value=reference)
    genes = [entry.sequence.upper().replace("U", "T") for entry in read_fasta(reference)]
    if all(len(g) < 3 for g in genes):
        raise DataError("holds no whole codon", field="cai", value=reference)
    try:
        index = CodonAdaptationIndex([g[: len(g) // 3 * 3] for g in genes])
    except ValueError as error:
        raise DataError(str(error), field="cai", value=reference) from None
    skip = {"ATG", "TGG", *code.stop_codons}
    words = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT"]
    counts = torch.tensor([float(w not in skip) for w in words], dtype=torch.float64)
    log_w = torch.tensor([float(np.log(index[w])) for w in words], dtype=torch.float64) * counts
    return Cai(log_w.view(4, 4, 4), counts.view(4, 4, 4))


def table(file: str, missing: float = float("-inf"), letters: str = "") -> Lookup:
    """Return the reward of a file with two columns, sequence and value, tab- or comma-separated, header optional.

    Raises:
        DataError: absent, a line that is no pair, or none at all.
    """
    path = Path(file)
    if not path.is_file():
        raise DataError("no such file", field="table", value=file)
    values = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        cells = re.split(r"[\t,]", line.strip())
        try:
            values[cells[0].upper()] = float(cells[1])
        except (IndexError, ValueError):
            if number > 1 and line.strip():
                raise DataError("is not a pair of sequence and value", field=f"{file}:{number}") from None
    if not values:
        raise DataError("holds no pair of sequence and value", field="table", value=file)
    found = set("".join(values))
    if found <= set("ACGTU"):  # RNA is read as DNA
        values, found = {text.replace("U", "T"): value for text, value in values.items()}, set("ACGT")
    return Lookup(values, letters or (LETTERS["dna"] if found <= set("ACGT") else LETTERS["protein"]), missing)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as text ({type(error).__name__})", field=str(path)) from None


PROTEIN = {"charge": "elementary charges at pH 7", "isoelectric": "pH", "instability": "index, unstable above 40",
           "aromaticity": "share of F, W, Y", "weight": "dalton"}  # fmt: skip
"""Properties of ProtParam and their units."""

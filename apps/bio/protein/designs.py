"""Designed sequences on their backbone: FASTA, structures and JSON, and a hook for a folding program of the user's.

FASTA headers carry what a reader needs to repeat the design: structure, sample number, seed, temperature, score
(mean nats per designed residue) and recovery (share of designed residues that are native), chains joined by `/`; and
last the manifest with the letters allowed at each residue, so that the file can be audited alone.

Nothing here folds a sequence. `refold` runs an external command that the user names, once for each design, and
measures the CA distance of what it wrote to the backbone after superposition; without such a command no claim about
folding is made.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from apps.bio.manifest import header
from apps.bio.protein.data import AMINO
from apps.bio.protein.sites import Sites
from apps.bio.protein.structure import read_structure
from core.errors import QuintetError, UsageError

__all__ = ["ProteinDesigns", "superposed"]


@dataclass(frozen=True, eq=False)
class ProteinDesigns:
    """Designs for one backbone.

    Args:
        sites: structure and rules.
        tokens: int64 [n, N].
        confidence: probabilities [n, N].
        manifest: how they were made.
        index: number of each design's stream, int64 [n].
        scores: rewards and distances by name, [n] each.
    """

    sites: Sites
    tokens: np.ndarray
    confidence: np.ndarray
    manifest: dict[str, Any]
    index: np.ndarray
    scores: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of designs."""
        return len(self.tokens)

    @property
    def sequences(self) -> list[str]:
        """Return the designs, one letter per residue that the model sees."""
        return ["".join(AMINO[v] for v in row) for row in self.tokens]

    @property
    def recovery(self) -> np.ndarray:
        """Return the share of designed residues that are native, [n]."""
        where = self.sites.designed
        return (self.tokens[:, where] == self.sites.structure.tokens[where]).mean(1)

    @property
    def score(self) -> np.ndarray:
        """Return the mean nats per designed residue, [n]."""
        return -np.log(np.maximum(self.confidence[:, self.sites.designed], 1e-12)).mean(1)

    def violations(self) -> list[str]:
        """Return what breaks the rules: read from the letters alone, not from the sampler."""
        rows, where = np.nonzero(~self.sites.allowed[np.arange(self.tokens.shape[1]), self.tokens])
        name = self.sites.structure.residues
        return [f"design {r}: {name[i].label} is {AMINO[self.tokens[r, i]]}" for r, i in zip(rows, where, strict=True)]

    @property
    def about(self) -> dict[str, Any]:
        """Return the manifest with the letters that the rules allow, residue after residue."""
        spelt = "".join(_class(allowed) for allowed in self.sites.allowed)
        kept = {k: v for k, v in self.manifest.items() if v not in ("", None, {})}
        return {**kept, "rules": {"fix": [f"1:{spelt}"]}}

    def header(self, i: int) -> str:
        """Return the FASTA header of a design."""
        return f"{self.words(i)} {header({}, self.about)}"

    def words(self, i: int) -> str:
        """Return what is said of a design in words without spaces, its name first."""
        m = {k: "_".join(str(v).split()) for k, v in self.manifest.items()
             if v not in ("", None) and not isinstance(v, dict | list)}  # fmt: skip
        words = [f"{m.pop('structure')}_{self.index[i]}", f"sample={self.index[i]}", f"score={self.score[i]:.4f}"]
        words += [f"recovery={self.recovery[i]:.4f}", *(f"{k}={v[i]:.4f}" for k, v in self.scores.items())]
        words += [f"{k}={v}" for k, v in m.items()]
        return " ".join(words)

    def to_fasta(self, path: str | Path | None = None) -> str:
        """Return the designs as FASTA, the chains of one design joined by `/`; write them where a path is given."""
        texts = ["/".join(self.sites.structure.by_chain(s).values()) for s in self.sequences]
        text = "".join(f">{self.header(i)}\n{s}\n" for i, s in enumerate(texts))
        if path is not None:
            Path(path).write_text(text)
        return text

    def to_structures(self, folder: str | Path, suffix: str = "") -> list[Path]:
        """Write one structure for each design; B-factors hold the confidence in percent.

        Args:
            folder: where; made if needed.
            suffix: `.pdb` or `.cif`; by default PDB, or mmCIF where PDB cannot hold the structure.
        """
        folder = Path(folder)
        suffix = suffix or (".cif" if self.sites.structure.unfit else ".pdb")
        folder.mkdir(parents=True, exist_ok=True)
        stem, paths = Path(self.sites.structure.name).name.split(".")[0], []
        for i, letters in enumerate(self.sequences):
            sure = np.where(self.sites.fixed, 1.0, self.confidence[i])
            paths.append(folder / f"{stem}_{self.index[i]:04d}{suffix}")
            lines = ["quintet", *self.words(i).split()]
            self.sites.structure.write(paths[-1], letters, sure.tolist(), lines)
        return paths

    def to_tsv(self) -> str:
        """Return one row for each design: sample, sequence (chains joined by `/`), score, recovery, other scores.

        A first comment line has the manifest.
        """
        rows = [["sample", "sequence", "score", "recovery", *self.scores]]
        for i, s in enumerate(self.sequences):
            values = (self.score[i], self.recovery[i], *(v[i] for v in self.scores.values()))
            joined = "/".join(self.sites.structure.by_chain(s).values())
            rows.append([str(self.index[i]), joined, *(f"{v:.6g}" for v in values)])
        about = f"# {json.dumps(self.about, default=str)}\n"
        return about + "".join("\t".join(row) + "\n" for row in rows)

    def to_json(self) -> str:
        """Return designs, scores and manifest as JSON."""
        labels = [r.label for r in self.sites.structure.residues]
        rows = [
            {
                "sample": int(k),
                "sequence": s,
                "score": float(v),
                "recovery": float(r),
                "confidence": c.round(4).tolist(),
                **{name: float(values[i]) for name, values in self.scores.items()},
            }
            for i, (k, s, v, r, c) in enumerate(
                zip(self.index, self.sequences, self.score, self.recovery, self.confidence, strict=True)
            )
        ]
        where = [labels[i] for i in self.sites.designed]
        return json.dumps({"manifest": self.about, "residues": labels, "designed": where, "designs": rows})

    def refold(self, command: str, seconds: float = 3600.0) -> np.ndarray:
        """Fold each design with a program of the user's and return CA distances to the backbone, angstrom [n].

        Args:
            command: with `{fasta}` for the file to read and `{out}` for the PDB file that it must write.
            seconds: limit for each design.

        Raises:
            UsageError: a placeholder is missing.
            QuintetError: the command failed, or wrote another number of residues.
        """
        words = shlex.split(command)
        for place in ("{fasta}", "{out}"):
            if not any(place in w for w in words):
                raise UsageError(f"needs {place}", field="fold", value=command)
        found = []
        for i, sequence in enumerate(self.sequences):
            with tempfile.TemporaryDirectory() as name:
                fasta, out = Path(name) / "design.fasta", Path(name) / "folded.pdb"
                chains = self.sites.structure.by_chain(sequence)
                fasta.write_text(f">{self.words(i)}\n{':'.join(chains.values())}\n")
                called = [w.replace("{fasta}", str(fasta)).replace("{out}", str(out)) for w in words]
                try:
                    done = subprocess.run(called, capture_output=True, text=True, timeout=seconds, check=False)
                except (OSError, subprocess.TimeoutExpired) as error:
                    raise QuintetError(f"did not run ({error})", field="fold", value=words[0]) from None
                if done.returncode or not out.exists():
                    tail = (done.stderr or done.stdout).strip().splitlines()[-1:] or [f"exit {done.returncode}"]
                    raise QuintetError(f"failed: {tail[0]}", field="fold", value=words[0])
                folded = read_structure(out).coords[:, 1]
            if len(folded) != len(sequence):
                raise QuintetError(f"wrote {len(folded)} residues, not {len(sequence)}", field="fold", value=words[0])
            found.append(superposed(folded, self.sites.structure.coords[:, 1]))
        return np.array(found)


def _class(allowed: np.ndarray) -> str:
    """Return the letters of a residue, bool [20], as a rule spells them: `?` any, A, [..] one of, {..} none of."""
    some, others = ("".join(a for a, v in zip(AMINO, allowed, strict=True) if v == want) for want in (True, False))
    if not others or len(some) == 1:
        return some if others else "?"
    return f"[{some}]" if len(some) <= len(others) else f"{{{others}}}"


def superposed(a: np.ndarray, b: np.ndarray) -> float:
    """Return the root mean square distance of points [N, 3] after the best rotation and shift (Kabsch 1976)."""
    from Bio.SVDSuperimposer import SVDSuperimposer

    fit = SVDSuperimposer()
    fit.set(np.asarray(b, float), np.asarray(a, float))
    fit.run()
    return float(fit.get_rms())

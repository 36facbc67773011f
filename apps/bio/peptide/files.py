"""Designed peptides as chemists read them: SDF, SMILES, HELM, each molecule checked by RDKit before it is written.

| topology | what the letters become |
|---|---|
| `linear` | the chain as it stands |
| `cyclic` | closed head to tail |
| `disulfide` | the first cysteine bridged to the last; where there are no two apart, the chain as it stands |
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from core.errors import UsageError

if TYPE_CHECKING:
    from apps.bio.peptide.chemistry import Peptide
    from apps.bio.records import Designs

__all__ = ["TOPOLOGIES", "helm", "made", "sdf", "smiles", "suited"]

TOPOLOGIES = ("linear", "cyclic", "disulfide")


def suited(topology: str, suffix: str, alphabet: str) -> None:
    """Refuse molecules of DNA, a topology that is not known, and one that the file cannot hold.

    Args:
        topology: a name, or empty.
        suffix: of the file, `.sdf`.
        alphabet: letters of the model.

    Raises:
        UsageError: names what does not fit.
    """
    from apps.bio.records import CHEMICAL

    if topology and topology not in TOPOLOGIES:
        raise UsageError("no such topology", field="topology", value=topology, choices=TOPOLOGIES)
    if topology and suffix not in CHEMICAL:
        raise UsageError("needs --out with a molecule file", field="topology", value=topology, choices=CHEMICAL)
    if suffix in CHEMICAL and alphabet == "ACGT":
        raise UsageError("holds peptides, and the model writes DNA", field="out", value=suffix)


def form_of(designs: Designs) -> str:
    """Return the topology that the manifest names."""
    return designs.manifest.get("topology", "linear")


def made(designs: Designs) -> list[Peptide]:
    """Return designs as peptides of the topology that their manifest names."""
    from apps.bio.peptide.generate import molecules

    form = form_of(designs)
    found = molecules(designs.sequences, cyclic=form == "cyclic", bridged=form == "disulfide")
    open_ = sum(not p.bridges for p in found)
    if form == "disulfide" and open_:
        print(f"{open_} of {len(found)} have no two cysteines apart and stay linear", file=sys.stderr)
    return found


def sdf(designs: Designs) -> str:
    """Return SDF text: drawn coordinates, HELM, SMILES, topology, RDKit's properties, scores as `reward_NAME`."""
    from apps.bio.peptide.chemistry import sdf_text

    known = json.dumps(designs.manifest, default=str)
    peptides, about = made(designs), {"topology": form_of(designs), "manifest": known}
    if designs.scores and about["topology"] != "linear":
        print(f"reward_... fields are of the letters as a linear chain; the others are RDKit's, of the "
              f"{about['topology']} molecule", file=sys.stderr)  # fmt: skip
    more = [{**{f"reward_{k}": v for k, v in designs.score_of(i).items()}, **about} for i in range(len(designs))]
    return sdf_text(peptides, designs.names, more)


def smiles(designs: Designs) -> str:
    """Return one line a design: canonical SMILES and name."""
    return "".join(f"{p.smiles} {name}\n" for p, name in zip(made(designs), designs.names, strict=True))


def helm(designs: Designs) -> str:
    """Return one line a design: HELM and name, parted by a tab; RDKit has built each molecule."""
    peptides = made(designs)
    assert all(p.mol is not None for p in peptides)
    return "".join(f"{p.helm}\t{name}\n" for p, name in zip(peptides, designs.names, strict=True))

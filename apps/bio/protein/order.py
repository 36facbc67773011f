"""A protein design as the command line asks for it: words to rules, the table first, then files.

| word | meaning for a protein |
|---|---|
| `--template` | the structure, PDB or mmCIF |
| `--keep` | selectors of residues that keep their letter: `A1-6,A23` |
| `--fix` | `SELECTOR:LETTERS`, the letters allowed there: `A10-12:DE` |
| `--alphabet` | the only letters that designed residues may have |

The table of fixed and designed residues goes to stderr before anything is sampled. `--out` is a FASTA, TSV or JSON
file, or a folder: one PDB file for each design (mmCIF where PDB cannot hold it), with the confidence in percent as
B-factor. `--fold COMMAND` hands every design to a folding program of the user's and notes its CA distance to the
backbone (`designs.refold`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.bio.protein.data import AMINO
from apps.bio.protein.sites import choose, select
from apps.bio.protein.structure import read_structure
from core.errors import UsageError
from core.run import outputs

if TYPE_CHECKING:
    from apps.bio.protein.generate import InverseFolder

__all__ = ["carried_out", "wishes"]

WORDS = ("keep", "fix", "alphabet")


def wishes(rules: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `sites.choose` that the words make.

    Raises:
        UsageError: a word that means nothing for a protein, or cannot be read.
    """
    for word, value in rules.items():
        if value and word not in WORDS:
            raise UsageError("means nothing for a protein", field=word, value=value, choices=WORDS)
    letters: dict[str, str] = {}
    for text in rules.get("fix") or ():
        where, colon, allowed = text.rpartition(":")
        if not (where and colon and allowed):
            raise UsageError(
                "cannot be read", field="fix", value=text, hint="write SELECTOR:LETTERS, such as A10-12:DE"
            )
        if wrong := [a for a in allowed.upper() if a not in AMINO]:
            raise UsageError("is not one of the twenty residues", field="fix", value=wrong[0])
        both = letters.get(where, AMINO)  # the same residues twice: what both allow
        letters[where] = "".join(a for a in both if a in allowed.upper())
    only = (rules.get("alphabet") or AMINO).upper()
    if wrong := [a for a in only if a not in AMINO]:
        raise UsageError("is not one of the twenty residues", field="alphabet", value=wrong[0])
    exclude = "".join(a for a in AMINO if a not in only)
    return {"fix": ",".join(rules.get("keep") or ()), "letters": letters, "exclude": exclude}


def carried_out(
    model: InverseFolder, rules: Mapping[str, Any], template: Path | None, out: Path | None, fold: str = "",
    told: Mapping[str, Any] | None = None, **settings: Any,
) -> dict[str, Any] | None:  # fmt: skip
    """Design and write to `out` (returns a summary), or print FASTA (returns None).

    `told` is noted in the manifest: reward and steering as they were asked for.

    Raises:
        UsageError: no structure, words that cannot be read, or another ending of `out`.
    """
    if template is None:
        raise UsageError("a protein is designed on a structure", field="template", hint="give a PDB or mmCIF file")
    if out is not None and out.suffix.lower() not in {".fasta", ".fa", ".json", ".tsv", ""}:
        raise UsageError("write .fasta, .tsv, .json, or name a folder for structures", field="out", value=str(out))
    if out is not None:
        (outputs.file if out.suffix else outputs.folder)(out)
    wish, structure = wishes(rules), read_structure(template)
    for text in rules.get("keep") or ():
        select(structure, text, "keep")  # a mistake is told by the word that was written
    print(choose(structure, **wish).table(), file=sys.stderr)
    found = model.sample(settings.pop("n"), structure, **wish, **settings)
    found.manifest.update({k: v for k, v in (told or {}).items() if v})
    if broken := found.violations():
        raise RuntimeError(f"{broken[0]} against the rules; nothing was written: please report this")
    if fold:
        found.scores["ca_rmsd"] = found.refold(fold)
    if out is None:
        sys.stdout.write(found.to_fasta())
        return None
    if out.suffix:
        form = {".json": found.to_json, ".tsv": found.to_tsv}.get(out.suffix.lower(), found.to_fasta)
        outputs.save(out, form())
    else:
        found.to_structures(out)
    return {
        "out": str(out), "designs": len(found), "distinct": len(set(found.sequences)), "violations": 0,
        "recovery": float(found.recovery.mean()), "nats_per_residue": float(found.score.mean()),
        **{name: float(values.mean()) for name, values in found.scores.items()},
    }  # fmt: skip

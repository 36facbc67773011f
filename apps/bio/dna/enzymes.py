"""Restriction enzymes by name, from Biopython's copy of REBASE (Roberts et al., Nucleic Acids Research)."""

from __future__ import annotations

from functools import cache

from core.errors import UsageError

__all__ = ["known", "site"]


@cache
def _sites() -> dict[str, str]:
    from Bio.Restriction import AllEnzymes

    return {str(e): str(e.site) for e in AllEnzymes if getattr(e, "site", None)}


def known(name: str) -> bool:
    """Tell whether a word names an enzyme (`BsaI`, or `BsaI_site` as DNA Chisel writes it)."""
    return any(c.islower() for c in name) and name.removesuffix("_site") in _sites()


def site(name: str) -> str:
    """Return an enzyme's recognition site, 5' to 3', in IUPAC letters.

    Raises:
        UsageError: no such enzyme.
    """
    word = name.removesuffix("_site")
    if word not in _sites():
        raise UsageError("no such enzyme or motif", field="enzyme", value=word, choices=_sites())
    return _sites()[word]

"""Rules as the command line writes them, and back.

Examples: forbid BsaI, TTTTT; require TATAWAW, TGASTCA=2, TGASTCA=1-3; homopolymer 5; gc 0.4-0.6, 0.3-0.7/50; fix
1:ACGT; keep 1-60 (of the template); frame 121:MSKGEEL, 121:MSKGEEL:11 (genetic code 11); alphabet ACG; spacing
TTGACA,TATAAT,15-19.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from apps.bio.constraints import alphabet, fix, forbid, frame, gc, homopolymer, require, spacing
from core.errors import UsageError

__all__ = ["alike", "altered", "parse", "spans", "specs_of"]


def _match(form: str, word: str, field: str, example: str) -> re.Match[str]:
    found = re.fullmatch(form, word.strip())
    if found is None:
        raise UsageError(f"is not written like {example}", field=field, value=word)
    return found


def _require(word: str) -> Any:
    m = _match(r"([^=]+?)(?:=(\d+)(?:-(\d+)?)?)?", word, "require", "TATAWAW or TATAWAW=1-3")
    if m[2] is None:
        return require(m[1])
    most = int(m[3]) if m[3] else (None if "-" in word.rpartition("=")[2] else int(m[2]))
    return require(m[1], count=(int(m[2]), most))


def _gc(word: str) -> Any:
    number = r"(\d+\.?\d*|\.\d+)(%?)"
    m = _match(rf"{number}\s*-\s*{number}(?:/(\d+))?", word, "gc", "0.4-0.6 or 0.3-0.7/50")
    scale = 100.0 if m[2] or m[4] else 1.0
    return gc(float(m[1]) / scale, float(m[3]) / scale, int(m[5]) if m[5] else None)


def _fix(word: str) -> Any:
    m = _match(r"(\d+):([A-Za-z?[\]{}]+)", word, "fix", "1:ACGT")
    return fix(int(m[1]), m[2].upper())


def _frame(word: str) -> Any:
    m = _match(r"(\d+):([A-Za-z*]+)(?::(\d+))?", word, "frame", "121:MSKGEEL or 121:MSKGEEL:11")
    return frame(int(m[1]), m[2].upper(), int(m[3] or 1))


def _spacing(word: str) -> Any:
    m = _match(r"([^,]+),([^,]+),(\d+)-(\d+)", word, "spacing", "TTGACA,TATAAT,15-19")
    return spacing(m[1].strip(), m[2].strip(), int(m[3]), int(m[4]))


READ: dict[str, Callable[[str], Any]] = {
    "forbid": forbid, "require": _require, "gc": _gc, "fix": _fix, "frame": _frame, "spacing": _spacing,
}  # fmt: skip


def spans(words: Sequence[str]) -> list[tuple[int, int]]:
    """Return spans `FIRST-LAST` (or single positions), from 1; several may stand in one word, with commas."""
    out = []
    for word in (part for w in words for part in w.split(",")):
        m = _match(r"(\d+)(?:-(\d+))?", word, "keep", "1-60")
        out.append((int(m[1]), int(m[2] or m[1])))
        if out[-1][0] > out[-1][1] or out[-1][0] < 1:
            raise UsageError("is not a span from 1 on", field="keep", value=word)
    return out


def parse(rules: Mapping[str, Any]) -> list[Any]:
    """Return the specs that the words of the command line stand for (`keep` aside: it needs a template).

    Raises:
        UsageError: words that make no sense.
    """
    out: list[Any] = []
    for name, words in _mapping(rules).items():
        if name == "homopolymer":
            out.append(homopolymer(int(_match(r"\d+", str(words), name, "5")[0])))
        elif name == "alphabet":
            out.append(alphabet(str(words).upper()))
        elif name in READ:
            out += [READ[name](str(word)) for word in (words if isinstance(words, list | tuple) else [words])]
        elif name != "keep":
            raise UsageError("no such rule", field="rules", value=name, choices=[*READ, "homopolymer", "alphabet"])
    return out


def _mapping(rules: Any) -> dict[str, Any]:
    """Return rules as a dictionary; those of a file may be anything."""
    if not isinstance(rules, Mapping):
        raise UsageError('are not {"forbid": [...], ...}', field="rules", value=rules)
    return dict(rules)


def alike(rules: Mapping[str, Any], entries: Sequence[Any], template: Path | None = None) -> list[list[int]]:
    """Return the numbers of the entries that are judged together: by the rules given, or by the same ones of manifests.

    A template has rules of its own: its annotations, and the letters that stay.

    Raises:
        UsageError: no rule is given, and an entry names none.
    """
    found: dict[str, list[int]] = {}
    for i, entry in enumerate(entries):
        own = rules or entry.manifest.get("rules")
        found.setdefault(json.dumps([own, entry.manifest.get("template")], default=str), []).append(i)
        if not own and template is None:
            who = "the files name none" if i == 0 else f"{entry.name} names none"
            raise UsageError(f"no rule is given, and {who}", field="rules", hint="--forbid BsaI, ...")
    return list(found.values())


def specs_of(
    rules: Mapping[str, Any], template: Path | None, entries: Sequence[Any]
) -> tuple[list[Any], list[str], list[bool]]:  # fmt: skip
    """Return the rules that sequences are judged by (those given, or those of their manifests), the sequences, and
    which are circles.

    With a template the rules speak about its designed part, which is cut out of whole records.

    Raises:
        UsageError: designs in a template without that template; sequences of another length than it has.
    """
    about = entries[0].manifest if entries else {}
    given, sequences = _given(rules, entries), [e.sequence.upper() for e in entries]
    if template is None:
        if (about.get("template") and not rules) or given.get("keep"):
            raise UsageError("these designs stand in a template", field="template", hint="give it by --template FILE")
        return parse(given), sequences, [e.circular or bool(e.manifest.get("circular")) for e in entries]
    from apps.bio.design import order

    wish = order(given, 0, template)
    held = wish.template
    if held is None or any(len(s) not in (held.size, len(held.open)) for s in sequences):
        raise UsageError("a sequence is neither as long as the template nor as its designed part", field="template")
    arcs = ["".join(s[i] for i in held.sites) if len(s) == len(held.open) else s for s in sequences]
    return [*wish.specs, replace(fix(1, held.letters), of=held.start + 1)], arcs, [held.closed] * len(arcs)


def _given(rules: Mapping[str, Any], entries: Sequence[Any]) -> dict[str, Any]:
    """Return the rules given, or those of the manifests."""
    return _mapping(rules or (entries[0].manifest if entries else {}).get("rules", {}))


def altered(rules: Mapping[str, Any], template: Path, entries: Sequence[Any]) -> list[bool]:
    """Tell which whole records have another letter than their template beyond what `specs_of` cuts out.

    Nothing is returned where all of the template is cut out, or no sequence is a whole record.
    """
    from apps.bio.design import order
    from apps.bio.genbank import plain

    held = order(_given(rules, entries), 0, template).template
    if held is None or held.size >= len(held.open) or not any(len(e.sequence) == len(held.open) for e in entries):
        return []
    old, cut = plain(str(held.record.seq)), set(held.sites.tolist())
    rest = [i for i in range(len(old)) if i not in cut]
    texts = [plain(e.sequence) for e in entries]
    return [len(x) == len(old) and any(x[i] != old[i] for i in rest) for x in texts]

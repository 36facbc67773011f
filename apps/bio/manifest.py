"""How a set of designs came about, small enough to stand in every header.

A FASTA header reads `>name score=1.25 ... manifest={"model":"toy","seed":0,...}`: fields `key=value`, and last the
manifest as JSON without spaces, so that a sequence that has lost its file can still be made again.
"""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["header", "manifest", "parse_comment", "parse_header"]

FIELD = re.compile(r"(\w+)=(\S+)")


def manifest(**entries: Any) -> dict[str, Any]:
    """Return a manifest: the tool's version and what is given, without empty entries."""
    from core import __version__

    kept = {k: v for k, v in entries.items() if v not in (None, "", [], (), {})}
    return {"tool": f"quintet {__version__}", **kept}


def header(scores: dict[str, float], entries: dict[str, Any]) -> str:
    """Return the description of one sequence: its scores, then the manifest."""
    text = json.dumps(entries, separators=(",", ":"), default=str).replace(" ", "\\u0020")
    fields = [f"{re.sub(r'[^A-Za-z0-9_]', '_', k)}={v + 0.0:.6g}" for k, v in scores.items()]
    return " ".join([*fields, *([f"manifest={text}"] if entries else [])])


def parse_comment(text: str) -> tuple[dict[str, float], dict[str, Any]]:
    """Return (scores, manifest) that end a GenBank comment, however its lines are wrapped."""
    before, mark, after = text.rpartition("manifest=")
    if not mark:
        return {}, {}
    fields: list[str] = []
    for word in reversed(before.split()):
        if not FIELD.fullmatch(word):
            break
        fields.insert(0, word)
    return parse_header(" ".join([*fields, f"manifest={''.join(after.split())}"]))


def parse_header(text: str) -> tuple[dict[str, float], dict[str, Any]]:
    """Return (scores, manifest) of a description; what is neither is left out."""
    before, _, after = text.partition("manifest=")
    entries: dict[str, Any] = {}
    if after:
        try:
            found = json.loads(after.split()[0])
            entries = found if isinstance(found, dict) else {}
        except (ValueError, IndexError):
            entries = {}
    scores = {}
    for key, value in FIELD.findall(before):
        try:
            scores[key] = float(value)
        except ValueError:
            continue
    return scores, entries

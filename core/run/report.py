"""A result as one HTML page that needs nothing else: text, tables, pictures, links.

A page is a list of sections and a section a list of blocks; each block knows its HTML. Pictures are embedded, so that
the page can be sent by mail; big things (maps) stay files beside it and are linked or framed by relative path.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Block", "Frame", "Link", "Picture", "Section", "Table", "Text", "write"]

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881 }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 62rem; margin: 2.5rem auto; padding: 0 1rem }
h1, h2 { line-height: 1.2; font-weight: 650 }
h2 { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1.2rem }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
table { display: block; overflow-x: auto }
th, td { padding: .35rem .8rem; border-bottom: 1px solid var(--line); text-align: right }
th { background: var(--soft) }
th:first-child, td:first-child { text-align: left }
figure { margin: 1.2rem 0 }
figure img, iframe { max-width: 100%; border: 1px solid var(--line); border-radius: 6px; background: white }
iframe { width: 100%; height: 30rem }
figcaption { opacity: .75; font-size: .92em }
"""


class Block(Protocol):
    """Something that a section shows."""

    def html(self, base: Path) -> str:
        """Return its HTML for a page in the folder `base`."""
        ...


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str

    def html(self, base: Path) -> str:
        """Return a paragraph."""
        return f"<p>{escape(self.text)}</p>"


@dataclass(frozen=True)
class Table:
    """Rows under a header; numbers are shown with four significant digits."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""

    def html(self, base: Path) -> str:
        """Return a table."""
        head = "".join(f"<th>{escape(str(cell))}</th>" for cell in self.header)
        body = "".join("<tr>" + "".join(f"<td>{escape(shown(c))}</td>" for c in row) + "</tr>" for row in self.rows)
        note = f"<figcaption>{escape(self.caption)}</figcaption>" if self.caption else ""
        return f"<figure><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}</figure>"


@dataclass(frozen=True)
class Picture:
    """A PNG or SVG file, embedded."""

    path: Path
    caption: str = ""

    def html(self, base: Path) -> str:
        """Return a figure with the picture inside the page."""
        kind = {".png": "image/png", ".svg": "image/svg+xml", ".jpg": "image/jpeg"}[self.path.suffix.lower()]
        data = base64.b64encode(self.path.read_bytes()).decode()
        image = f'<img alt="{escape(self.caption)}" src="data:{kind};base64,{data}">'
        return f"<figure>{image}<figcaption>{escape(self.caption)}</figcaption></figure>"


@dataclass(frozen=True)
class Frame:
    """Another HTML page (a map) shown inside this one."""

    path: Path
    caption: str = ""

    def html(self, base: Path) -> str:
        """Return a frame that points at the file."""
        source = escape(relative(self.path, base))
        caption = f'{escape(self.caption)} <a href="{source}">open alone</a>'
        return f'<figure><iframe src="{source}" loading="lazy"></iframe><figcaption>{caption}</figcaption></figure>'


@dataclass(frozen=True)
class Link:
    """A link to a file beside the page."""

    path: Path
    text: str

    def html(self, base: Path) -> str:
        """Return a paragraph with the link."""
        return f'<p><a href="{escape(relative(self.path, base))}">{escape(self.text)}</a></p>'


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)


def relative(path: Path, base: Path) -> str:
    """Return the path of a file as seen from the folder `base`."""
    return Path(os.path.relpath(path, base)).as_posix()


def shown(cell: Any) -> str:
    """Return a table cell as text."""
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def write(path: Path, title: str, sections: Sequence[Section]) -> Path:
    """Write a page and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    body = "".join(
        f"<section><h2>{escape(s.title)}</h2>{''.join(b.html(path.parent) for b in s.blocks)}</section>"
        for s in sections
    )
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    page = f"<!doctype html><html lang=en><head>{head}<style>{STYLE}</style></head><body><h1>{escape(title)}</h1>{body}"
    path.write_text(page + "</body></html>", encoding="utf-8")
    return path

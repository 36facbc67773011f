"""A result as one HTML page that needs nothing else: text, tables, pictures, sounds, commands, links.

A page is a list of sections and a section a list of blocks; each block knows its HTML. Chapters gather the sections of
one application; the page then opens with what each of them found. Pictures and sounds are embedded, so that the page
can be sent by mail and asks no other host for anything; big things (maps) stay files beside it and are linked or
framed by relative path. Wide tables and long lines scroll inside themselves, the page never does.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

__all__ = ["Block", "Chapter", "Commands", "Frame", "Link", "Picture", "Section", "Sound", "Table", "Text", "write"]

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: light-dark(#0b57a4, #8ab8f0) }
* { box-sizing: border-box }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 62rem; margin: 2.5rem auto; padding: 0 1rem }
body { overflow-wrap: break-word }
h1, h2, h3 { line-height: 1.2; font-weight: 650 }
h2 { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1.2rem }
h3 { margin-top: 2.2rem }
a { color: var(--accent) }
nav ul { list-style: none; padding: 0; display: grid; gap: .8rem }
nav ul { grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)) }
nav li { border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1rem }
nav li p { margin: .4rem 0 0 }
.scroll { overflow-x: auto; margin: 1rem 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .35rem .8rem; border-bottom: 1px solid var(--line); text-align: right }
td { white-space: nowrap }
th { background: var(--soft); vertical-align: bottom }
th:first-child, td:first-child { text-align: left }
pre { background: var(--soft); border-radius: 6px; padding: .7rem 1rem; overflow-x: auto; font-size: .88em }
figure { margin: 1.2rem 0 }
figure img, iframe { max-width: 100%; border: 1px solid var(--line); border-radius: 6px; background: white }
figure img { height: auto }
iframe { width: 100%; height: 30rem }
audio { width: min(100%, 30rem); display: block }
figcaption { opacity: .8; font-size: .92em }
@media (max-width: 40rem) {
  th, td { padding: .3rem .5rem; font-size: .9em }
  td:first-child { white-space: normal }
}
"""


KINDS = {".png": "image/png", ".svg": "image/svg+xml", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif"}


class Block(Protocol):
    """Something that a section shows."""

    def html(self, base: Path) -> str:
        """Return its HTML for a page in the folder `base`."""
        ...


@dataclass(frozen=True)
class Text:
    """A paragraph; what stands between backticks is code."""

    text: str

    def html(self, base: Path) -> str:
        """Return a paragraph."""
        return f"<p>{prose(self.text)}</p>"


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
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        name = escape(self.caption or ", ".join(str(cell) for cell in self.header if cell), quote=True)
        return (
            f'<figure><div class="scroll" role="region" tabindex="0" aria-label="{name}">{table}</div>{note}</figure>'
        )


@dataclass(frozen=True)
class Picture:
    """A picture (PNG, SVG, JPEG, GIF), embedded."""

    path: Path
    caption: str = ""

    def html(self, base: Path) -> str:
        """Return a figure with the picture inside the page."""
        kind = KINDS[self.path.suffix.lower()]
        image = f'<img alt="{escape(self.caption or self.path.stem)}" src="{embedded(self.path, kind)}">'
        return f"<figure>{image}<figcaption>{prose(self.caption)}</figcaption></figure>"


@dataclass(frozen=True)
class Sound:
    """An Ogg, WAV or FLAC file, embedded."""

    path: Path
    caption: str = ""

    def html(self, base: Path) -> str:
        """Return a figure with a player inside the page."""
        kind = {".ogg": "audio/ogg", ".wav": "audio/wav", ".flac": "audio/flac"}[self.path.suffix.lower()]
        name = escape(self.caption or self.path.stem)
        player = f'<audio controls preload="metadata" aria-label="{name}" src="{embedded(self.path, kind)}"></audio>'
        return f"<figure>{player}<figcaption>{name}</figcaption></figure>"


@dataclass(frozen=True)
class Commands:
    """What to type to make this again."""

    lines: Sequence[str]

    def html(self, base: Path) -> str:
        """Return the lines as they are typed."""
        return f'<pre tabindex="0"><code>{escape(chr(10).join(self.lines))}</code></pre>'


@dataclass(frozen=True)
class Frame:
    """Another HTML page (a map) shown inside this one."""

    path: Path
    caption: str = ""

    def html(self, base: Path) -> str:
        """Return a frame that points at the file."""
        source, name = escape(relative(self.path, base)), escape(self.caption)
        frame = f'<iframe title="{name}" src="{source}" loading="lazy"></iframe>'
        return f'<figure>{frame}<figcaption>{name} <a href="{source}">open alone</a></figcaption></figure>'


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
    """A heading and what stands under it; `finding` is its result in one line."""

    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)
    finding: str = ""

    def html(self, base: Path, level: int = 2) -> str:
        """Return the section under a heading of this level."""
        head = f"<h{level}>{escape(self.title)}</h{level}>"
        return f"<section>{head}{''.join(block.html(base) for block in self.blocks)}</section>"


@dataclass(frozen=True)
class Chapter:
    """The sections of one application."""

    name: str
    lead: str
    sections: Sequence[Section]

    def html(self, base: Path) -> str:
        """Return the chapter, its sections one level lower."""
        inner = "".join(section.html(base, 3) for section in self.sections)
        return (
            f'<article id="{escape(self.name)}"><h2>{escape(self.name)}</h2><p>{escape(self.lead)}</p>{inner}</article>'
        )


def contents(chapters: Sequence[Chapter]) -> str:
    """Return links to the chapters, each with what its sections found."""
    items = []
    for chapter in chapters:
        found = "".join(f"<p>{escape(s.finding)}</p>" for s in chapter.sections if s.finding)
        items.append(f'<li><a href="#{escape(chapter.name)}">{escape(chapter.name)}</a>{found}</li>')
    return f'<nav aria-label="applications"><ul>{"".join(items)}</ul></nav>' if items else ""


def prose(text: str) -> str:
    """Return text as HTML, with code where it stands between backticks."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def embedded(path: Path, kind: str) -> str:
    """Return a file as an address that holds it whole."""
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def relative(path: Path, base: Path) -> str:
    """Return the address of a file as seen from the folder `base`; names may hold `#`, `?` and `%`."""
    return quote(Path(os.path.relpath(path, base)).as_posix())


def shown(cell: Any) -> str:
    """Return a table cell as text."""
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def write(path: Path, title: str, parts: Sequence[Section | Chapter], lead: str = "") -> Path:
    """Write a page and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    opening = f"<p>{prose(lead)}</p>" if lead else ""
    opening += contents([part for part in parts if isinstance(part, Chapter)])
    body = "".join(part.html(path.parent) for part in parts)
    view = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f'<meta charset="utf-8">{view}<title>{escape(title)}</title><style>{STYLE}</style>'
    page = (
        f'<!doctype html><html lang="en"><head>{head}</head><body><main><h1>{escape(title)}</h1>{opening}{body}</main>'
    )
    path.write_text(page + "</body></html>", encoding="utf-8")
    return path

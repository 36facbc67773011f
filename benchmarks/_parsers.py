"""What the house reads from strangers: a small valid file for each parser, and ways to spoil it.

A parser keeps its promise if it returns or raises a `QuintetError`; anything else is a traceback for a user.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile
import wave
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import QuintetError

__all__ = ["PARSERS", "Parser", "attempt", "spoil"]

TOKENS = [b"", b"-", b"nan", b"inf", b"1e999", b"9" * 20, b"\x00", b"\xff\xfe", b"{", b'"', b",", b"\n",
          b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"../../x", b"True", b"[[[[", b"0x", b"\xf0\x9f\x8e\xb5"]  # fmt: skip


@dataclass(frozen=True)
class Parser:
    """How something is read: the name of a file, the bytes of a valid one, and the function that reads a path."""

    file: str
    valid: Callable[[], bytes]
    read: Callable[[Path], Any]


def spoil(blob: bytes, draw: np.random.Generator) -> bytes:
    """Return bytes with one to four changes: cut, flipped, overwritten, repeated, removed, a hostile token put in."""
    out = bytearray(blob)
    for _ in range(int(draw.integers(1, 5))):
        a, b = sorted(int(v) for v in draw.integers(0, len(out) + 1, 2))
        match int(draw.integers(7)):
            case 0:
                out = out[:a]
            case 1 if out:
                out[min(a, len(out) - 1)] ^= 1 << int(draw.integers(8))
            case 2:
                out[a : a + 4] = draw.bytes(4)
            case 3:
                out[a:a] = out[a : min(b, a + 64)]
            case 4:
                del out[a : min(b, a + 64)]
            case 5:
                out[a:a] = TOKENS[int(draw.integers(len(TOKENS)))]
            case _:
                digits = [i for i, c in enumerate(out) if 48 <= c <= 57]
                if digits:
                    out[digits[int(draw.integers(len(digits)))]] = int(draw.integers(33, 127))
    return bytes(out)


def attempt(parser: Parser, blob: bytes, folder: Path) -> str:
    """Return `read`, `refused`, or the traceback's last line."""
    path = folder / parser.file
    path.write_bytes(blob)
    try:
        parser.read(path)
    except QuintetError as error:
        return "refused" if "\n" not in str(error) else f"more than one line: {error!r}"
    except Exception as error:  # noqa: BLE001  that is what is being looked for
        return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return "read"


def text(content: str) -> Callable[[], bytes]:
    """Return a source of bytes."""
    return lambda: content.encode()


def _wav() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(32000)
        sound.writeframes((np.sin(np.arange(400) / 9) * 9000).astype("<i2").tobytes())
    return file.getvalue()


def _midi() -> bytes:
    notes = b"".join(bytes([0, 0x90, 60 + k, 90, 48, 0x80, 60 + k, 0]) for k in range(6))
    track = b"\x00\xff\x51\x03\x07\xa1\x20" + notes + b"\x00\xff\x2f\x00"
    return b"MThd" + struct.pack(">IHHH", 6, 0, 1, 96) + b"MTrk" + struct.pack(">I", len(track)) + track


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        info = tarfile.TarInfo("a/b.txt")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"hello"))
    return file.getvalue()


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/b.txt", "hello")
    return file.getvalue()


def _manifest() -> bytes:
    sums = {"weights.safetensors": hashlib.sha256(_weights()).hexdigest()}
    return json.dumps({**MANIFEST, "sha256": sums}).encode()


def _weights() -> bytes:
    from safetensors.numpy import save

    return save({"w": np.arange(6, dtype=np.float32)})


MANIFEST = {
    "format": 1,
    "app": "toy",
    "config": {},
    "step": 1,
    "metrics": {},
    "optimizer": None,
    "sha256": {"weights.safetensors": ""},
}
GPX = '<gpx version="1.1"><trk><trkseg>' + "".join(
    f'<trkpt lat="41.{k}" lon="-8.6"><time>2013-07-01T08:15:0{k}Z</time></trkpt>' for k in range(5)
) + "</trkseg></trk></gpx>"  # fmt: skip
OSM = (
    '<osm version="0.6"><node id="1" lat="41.10" lon="-8.60"/><node id="2" lat="41.11" lon="-8.61"/>'
    '<node id="3" lat="41.12" lon="-8.60"/><way id="7"><nd ref="1"/><nd ref="2"/><nd ref="3"/>'
    '<tag k="highway" v="residential"/><tag k="maxspeed" v="50"/></way></osm>'
)
EDGE = '<edge id="{0}" from="{1}" to="{2}"><lane id="{0}_0" index="0" speed="13.9" length="100" shape="{3}"/></edge>'
SUMO = (
    '<net><location netOffset="0,0" projParameter="+proj=utm +zone=29 +datum=WGS84 +units=m"/>'
    + EDGE.format("a", "x", "y", "500000,4500000 500100,4500000")
    + EDGE.format("b", "y", "x", "500100,4500000 500000,4500000")
    + '<connection from="a" to="b"/><connection from="b" to="a"/></net>'
)
GENBANK = (
    "LOCUS       X                         12 bp    DNA     linear   SYN 01-JAN-2020\nDEFINITION  x.\nACCESSION   X\n"
    "FEATURES             Location/Qualifiers\n     CDS             1..9\nORIGIN\n        1 acgtacgtac gt\n//\n"
)
ATOM = "ATOM  {:5d}  {:<3s} ALA A{:4d}    {:8.3f}{:8.3f}{:8.3f}  1.00 10.00           {}\n"
PDB = "END\n".join(
    [
        "".join(
            ATOM.format(3 * r + k + 1, atom, r + 1, 3.8 * r + k, 0.7 * k, 0.1, atom[0])
            for r in range(3)
            for k, atom in enumerate(("N", "CA", "C"))
        ),
        "",
    ]
)
MSH = (
    "$MeshFormat\n2.2 0 8\n$EndMeshFormat\n$Nodes\n4\n1 0 0 0\n2 1 0 0\n3 1 1 0\n4 0 1 0\n$EndNodes\n$Elements\n2\n"
    "1 2 2 0 1 1 2 3\n2 2 2 0 1 1 3 4\n$EndElements\n"
)
SPACE = "name: chain\nplace: nodes\nnodes: 5\noperations: [skip_connect, nor_conv_3x3]\nedges: chain\n"


def _lazy(target: str, *more: Any) -> Callable[[Path], Any]:
    """Return the function at `module:name`, imported when it is first called."""
    from core.run.config import locate

    return lambda path: locate(target)(path, *more)


def _requests(path: Path) -> Any:
    from apps.trajectory.requests import Request, read_requests

    return read_requests(path, Request("", ""))


def _roads(path: Path) -> Any:
    from apps.trajectory.sources import open_network

    return open_network(str(path))


def _extract(path: Path) -> Any:
    from core.run.fetch import extract

    return extract(path, {"a/b.txt": {"bytes": 10}}, path.parent / "out")


def _checkpoint(path: Path) -> Any:
    """Load a checkpoint whose file this is, beside a whole one of the other kind."""
    from core.run.checkpoint import load

    folder = path.parent
    blob = (folder / "weights.safetensors").read_bytes() if path.name == "weights.safetensors" else _weights()
    (folder / "weights.safetensors").write_bytes(blob)
    if path.name == "weights.safetensors":
        sums = {"weights.safetensors": hashlib.sha256(blob).hexdigest()}
        (folder / "manifest.json").write_text(json.dumps({**MANIFEST, "sha256": sums}))
    return load(folder)


def _recipe(path: Path) -> Any:
    from core.run.config import load_recipe

    return load_recipe("nas", str(path))


def _cell(path: Path) -> Any:
    from apps.nas.space import load
    from apps.nas.tokenizer import from_string

    return from_string(load("nb201"), path.read_text(encoding="latin-1"))


def _text(target: str) -> Callable[[Path], Any]:
    """Return a parser of text as one of a file."""
    return lambda path: _lazy(target)(path.read_text(encoding="latin-1"))  # type: ignore[arg-type]


CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|"
RECIPE = "# mine\ndefaults: [toy, _self_]\noptim: {lr: 1.0e-3}\ntrainer: {steps: 5}\n"

PARSERS: dict[str, Parser] = {
    "recipe": Parser("mine.yaml", text(RECIPE), _recipe),
    "checkpoint manifest": Parser("manifest.json", _manifest, _checkpoint),
    "checkpoint weights": Parser("weights.safetensors", _weights, _checkpoint),
    "tar archive": Parser("a.tar.gz", _tar, _extract),
    "zip archive": Parser("a.zip", _zip, _extract),
    "GPX": Parser("t.gpx", text(GPX), _lazy("apps.trajectory.gps:read_gps")),
    "GPS table": Parser(
        "t.csv", text("id,t,lat,lon\n1,0,41.1,-8.6\n1,15,41.2,-8.6\n"), _lazy("apps.trajectory.gps:read_gps")
    ),  # fmt: skip
    "requests": Parser("od.csv", text("origin,destination,depart\n3,200,08:15\n5,9,\n"), _requests),
    "OSM roads": Parser("r.osm", text(OSM), _roads),
    "SUMO roads": Parser("r.net.xml", text(SUMO), _roads),
    "FASTA": Parser("s.fasta", text(">a x\nACGTNN\nAC\n>b\nGG\n"), _lazy("apps.bio.records:read")),
    "GenBank": Parser("s.gb", text(GENBANK), _lazy("apps.bio.records:read")),
    "sequences, JSON": Parser(
        "s.json",
        text('{"manifest": {}, "records": [{"name": "a", "sequence": "ACGT"}]}'),
        _lazy("apps.bio.records:read"),
    ),
    "sequences, TSV": Parser("s.tsv", text("id\tsequence\na\tACGT\n"), _lazy("apps.bio.records:read")),
    "PDB": Parser("p.pdb", text(PDB), _lazy("apps.bio.protein.structure:read_structure")),
    "HELM": Parser("h.txt", text("PEPTIDE1{A.C.D.[dA]}$$$$"), _text("apps.bio.peptide.chemistry:from_helm")),
    "motif": Parser("m.txt", text("TATAWAW"), _text("apps.bio.dna.motifs:parse")),
    "reward expression": Parser("e.txt", text("2*gc() + tm()"), _text("apps.bio.expressions:parse")),
    "cell": Parser("c.txt", text(CELL), _cell),
    "space": Parser("s.yaml", text(SPACE), _lazy("apps.nas.space:load")),
    "WAV": Parser("w.wav", _wav, _lazy("apps.music.audio:read")),
    "MIDI": Parser("m.mid", _midi, _lazy("apps.music.score:read_midi")),
    "mesh": Parser("m.msh", text(MSH), _lazy("apps.pde.formats:read_mesh", (0.0, 0.0), False)),
}

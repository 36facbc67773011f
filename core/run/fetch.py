"""Public data sets: a registry, downloads that resume, and extraction that trusts nobody.

`data/registry.json` maps a name to its domain, title, page, licence and files; a file has a url and, where known, a
sha256 and a size, and it may list the members to take out of an archive. What is written under the final name is
complete and verified; what is under way is called `<name>.part` and the next attempt goes on where it ended.

Archives are read member by member: only listed regular files are copied, never more bytes than declared, and nothing
is written outside the folder, whatever names, links or devices an archive holds.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit

import core
from core.errors import DataError, UsageError

__all__ = ["cache", "catalogue", "data_root", "download", "extract", "fetch", "obtain", "registry"]

CHUNK = 1 << 20
MOST = 1 << 36
ATTEMPTS = 4


def data_root() -> Path:
    """Return the folder of the data that ships with quintet, in a clone or in an installed wheel."""
    here = Path(core.__file__).parent
    packed = here / "_data"
    return packed if packed.is_dir() else here.parent / "data"


def cache() -> Path:
    """Return the folder of fetched data: `$QUINTET_DATA`, or `~/.cache/quintet`."""
    return Path(os.environ.get("QUINTET_DATA", "~/.cache/quintet")).expanduser()


def registry(domain: str | None = None) -> dict[str, dict[str, Any]]:
    """Return the known data sets, of one domain if it is given."""
    known = json.loads((data_root() / "registry.json").read_text())
    return {name: entry for name, entry in known.items() if domain in {None, entry["domain"]}}


def catalogue(domain: str) -> dict[str, str]:
    """Return a line for each data set of a domain: what it is, its licence, where it lies or how to get it."""
    lines = {}
    for name, entry in registry(domain).items():
        files = entry["files"]
        here = bool(files) and all((cache() / name / file["name"]).exists() for file in files)
        where = f"in {cache() / name}" if here else ("not fetched" if files else f"by hand from {entry['page']}")
        lines[name] = f"{entry['title']} [{entry['licence']}] {where}"
    return lines


def obtain(names: Sequence[str], domain: str, out: Path | None = None) -> dict[str, str]:
    """Fetch data sets by name and return the folder of each."""
    return {name: str(fetch(name, domain, out)) for name in names}


def fetch(name: str, domain: str | None = None, out: Path | None = None) -> Path:
    """Download and verify a data set of the registry, unless it is there, and return its folder.

    Args:
        name: a name in the registry.
        domain: the app that asks; only its data sets are known to it.
        out: the folder; by default `cache() / name`.
    Raises:
        UsageError: no such data set.
        DataError: offline, damaged, or to be had by hand only.
    """
    known = registry(domain)
    if name not in known:
        raise UsageError("no such data set", field="data", value=name, choices=known)
    entry, folder = known[name], out or cache() / name
    if not entry["files"]:
        raise DataError("has to be fetched by hand", field=name, hint=f"see {entry['page']}: {entry['how']}")
    for file in entry["files"]:
        target = folder / file["name"]
        if not (target.is_file() and verified(target, file.get("sha256"))):
            download(file["url"], target, sha256=file.get("sha256"), size=file.get("bytes"))
        if file.get("members"):
            extract(target, file["members"], folder)
    return folder


def download(url: str, target: Path, *, sha256: str | None = None, size: int | None = None) -> Path:
    """Download a file; go on from `<target>.part`; put it in place only when it is complete and verified.

    Args:
        url: http or https.
        target: the file to make.
        sha256: expected checksum in hexadecimal; None: not known.
        size: expected number of bytes; None: not known.
    Raises:
        DataError: with the url and what was expected and found; a damaged download is removed.
    """
    if urlsplit(url).scheme not in {"http", "https"}:
        raise UsageError("only http and https", field="url", value=url)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    for attempt in range(ATTEMPTS):
        try:
            if receive(url, part, size):
                break
        except (OSError, http.client.HTTPException) as error:
            if attempt == ATTEMPTS - 1 or isinstance(error, urllib.error.HTTPError):
                raise unreachable(url, error) from None
    else:
        raise DataError("the connection keeps breaking", field=url, hint="run again: it goes on where it ended")
    found = part.stat().st_size
    if size is not None and found != size:
        part.unlink()
        raise DataError(f"expected {size} bytes, got {found}", field=url)
    if sha256 is not None and (digest := checksum(part)) != sha256:
        part.unlink()
        raise DataError(f"expected sha256 {sha256}, got {digest}", field=url, hint="removed; the source has changed")
    os.replace(part, target)
    return target


def receive(url: str, part: Path, size: int | None) -> bool:
    """Append to `part` what the server still has; return whether that is all of it."""
    have = part.stat().st_size if part.exists() else 0
    if size is not None and have >= size:
        return True
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing after what we have, or another file by now
            part.unlink()
            return False
        raise
    with answer:
        resumed = answer.status == 206 and (answer.headers.get("Content-Range") or "").startswith(f"bytes {have}-")
        length = answer.headers.get("Content-Length")
        whole = None if length is None else int(length) + (have if resumed else 0)
        limit = size if size is not None else MOST
        if whole is not None and whole > limit:
            raise DataError(f"the server announces {whole} bytes, at most {limit} were expected", field=url)
        with part.open("ab" if resumed else "wb") as file:
            while block := answer.read(CHUNK):
                file.write(block)
                if file.tell() > limit:
                    raise DataError(f"more than the expected {limit} bytes", field=url)
                progress(url, file.tell(), whole)
    return whole is None or part.stat().st_size >= whole


def progress(url: str, done: int, whole: int | None) -> None:
    """Show on a terminal how far a download is."""
    if sys.stderr.isatty():
        share = f"{100 * done / whole:.0f} %" if whole else f"{done / 1e6:.0f} MB"
        print(f"\r{urlsplit(url).path.rpartition('/')[2]} {share}", end="", file=sys.stderr, flush=True)


def unreachable(url: str, error: Exception) -> DataError:
    """Say in one line why a server could not be used."""
    if isinstance(error, urllib.error.HTTPError):
        return DataError(f"the server answers {error.code} {error.reason}", field=url)
    reason = getattr(error, "reason", error)
    host = urlsplit(url).hostname
    return DataError(f"cannot reach {host} ({reason})", field=url, hint="offline? toy recipes need no download")


def checksum(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verified(path: Path, sha256: str | None) -> bool:
    """Whether a file has its checksum; true where none is known."""
    return sha256 is None or checksum(path) == sha256


def extract(archive: Path, members: Mapping[str, Mapping[str, Any]], folder: Path) -> list[Path]:
    """Copy the listed members of a zip or tar archive into a folder.

    Args:
        archive: the file.
        members: for each member its largest size `bytes` and, where known, its `sha256`.
        folder: where they go, under their own relative names.
    Raises:
        DataError: a member is missing, not a regular file, too large, or its name leaves the folder.
    """
    paths = []
    with opened(archive) as reader:
        for name, rule in members.items():
            pure = PurePosixPath(name)
            if pure.is_absolute() or ".." in pure.parts or not pure.parts or "\\" in name:
                raise DataError("a member's name leaves the folder", field=str(archive), value=name)
            target = folder / pure
            if not target.resolve().is_relative_to(folder.resolve()):
                raise DataError("a member's name leaves the folder", field=str(archive), value=name)
            paths.append(copy(archive, reader, name, rule, target))
    return paths


def copy(archive: Path, reader: Any, name: str, rule: Mapping[str, Any], target: Path) -> Path:
    """Copy one member under a temporary name, within its size, and put it in place if its checksum is right."""
    limit, left = int(rule["bytes"]), int(rule["bytes"])
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    try:
        with member(archive, reader, name) as source, part.open("wb") as file:
            while block := source.read(min(CHUNK, left + 1)):
                left -= len(block)
                if left < 0:
                    raise DataError(f"member {name!r} is larger than {limit} bytes", field=str(archive))
                file.write(block)
        if not verified(part, rule.get("sha256")):
            raise DataError(f"member {name!r} has another sha256 than expected", field=str(archive))
        os.replace(part, target)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise DataError(f"cannot read member {name!r} ({error})", field=str(archive)) from None
    finally:
        part.unlink(missing_ok=True)
    return target


@contextmanager
def opened(archive: Path) -> Iterator[Any]:
    """Open a zip or tar archive for reading."""
    try:
        reader = zipfile.ZipFile(archive) if zipfile.is_zipfile(archive) else tarfile.open(archive)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as error:
        raise DataError(f"not a zip or tar archive ({error})", field=str(archive)) from None
    with reader:
        yield reader


@contextmanager
def member(archive: Path, reader: Any, name: str) -> Iterator[IO[bytes]]:
    """Open one member that must be a regular file."""
    try:
        if isinstance(reader, zipfile.ZipFile):
            info = reader.getinfo(name)
            regular = not info.is_dir() and (info.external_attr >> 28) in {0, 8}
            source = reader.open(info) if regular else None
        else:
            entry = reader.getmember(name)
            source = reader.extractfile(entry) if entry.isreg() else None
    except KeyError:
        raise DataError("has no such member", field=str(archive), value=name) from None
    if source is None:
        raise DataError("a member is not a regular file", field=str(archive), value=name)
    with source:
        yield source

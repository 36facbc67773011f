"""Downloads resume and are verified; archives cannot write where they should not."""

from __future__ import annotations

import hashlib
import io
import json
import re
import socket
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from core.errors import DataError, UsageError
from core.run import fetch

BLOB = bytes(range(256)) * 4096
SHA = hashlib.sha256(BLOB).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves BLOB; /breaking drops the line after each 300 kB, /plain knows no Range, /short lies about its end."""

    def do_GET(self) -> None:
        self.server.asked.append(self.headers.get("Range"))  # type: ignore[attr-defined]
        if self.path == "/absent":
            self.send_error(404)
            return
        start = 0
        if self.headers.get("Range") and self.path != "/plain":
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        if start >= len(BLOB):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(BLOB) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(BLOB) - 1}/{len(BLOB)}")
        self.end_headers()
        self.wfile.write(BLOB[start : start + 300_000] if self.path == "/breaking" else BLOB[start:])

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.asked = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield http
    http.shutdown()
    http.server_close()


def address(http: ThreadingHTTPServer, path: str) -> str:
    return f"http://127.0.0.1:{http.server_address[1]}{path}"


def test_a_broken_line_is_resumed_by_range(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    target = fetch.download(address(server, "/breaking"), tmp_path / "b", sha256=SHA, size=len(BLOB))
    assert target.read_bytes() == BLOB
    assert server.asked == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]  # type: ignore[attr-defined]
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_a_partial_file_is_continued_and_a_server_without_range_starts_over(
    server: ThreadingHTTPServer, tmp_path: Path
) -> None:
    for path in ("/whole", "/plain"):
        (tmp_path / "b.part").write_bytes(BLOB[:1000])
        assert fetch.download(address(server, path), tmp_path / "b", sha256=SHA).read_bytes() == BLOB
    assert server.asked == ["bytes=1000-", "bytes=1000-"]  # type: ignore[attr-defined]


def test_a_wrong_checksum_says_both_and_leaves_nothing(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        fetch.download(url := address(server, "/whole"), tmp_path / "b", sha256="0" * 64)
    assert url in str(caught.value) and "0" * 64 in str(caught.value) and SHA in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_more_than_announced_is_refused(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at most 1000 were expected"):
        fetch.download(address(server, "/whole"), tmp_path / "b", size=1000)
    assert not (tmp_path / "b").exists()


def test_an_error_of_the_server_is_one_line(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="answers 404"):
        fetch.download(address(server, "/absent"), tmp_path / "b")


def test_offline_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DataError, match="cannot reach 127.0.0.1") as caught:
        fetch.download(f"http://127.0.0.1:{port}/x", tmp_path / "b")
    assert "\n" not in str(caught.value) and caught.value.exit_code == 3
    with pytest.raises(UsageError, match="only http"):
        fetch.download("file:///etc/hostname", tmp_path / "b")


def test_a_data_set_of_the_registry(
    server: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [{"name": "b.bin", "url": address(server, "/whole"), "sha256": SHA, "bytes": len(BLOB)}]
    entry = {"domain": "toy", "title": "bytes", "page": "p", "licence": "none", "files": files}
    (tmp_path / "registry.json").write_text(json.dumps({"bytes": entry}))
    monkeypatch.setattr(fetch, "data_root", lambda: tmp_path)
    monkeypatch.setenv("QUINTET_DATA", str(tmp_path / "cache"))
    assert "not fetched" in fetch.catalogue("toy")["bytes"]
    for _ in range(2):  # the second finds it in place
        assert fetch.obtain(["bytes"], "toy") == {"bytes": str(tmp_path / "cache" / "bytes")}
    assert len(server.asked) == 1 and "in " in fetch.catalogue("toy")["bytes"]  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="did you mean 'bytes'"):
        fetch.fetch("byte", "toy")


def test_the_shipped_registry_is_complete() -> None:
    """Every application lists sets of its field; names stay inside the folder; checksums are checksums."""
    assert {entry["domain"] for entry in fetch.registry().values()} == {"trajectory", "bio", "nas", "music", "pde"}
    for name, entry in fetch.registry().items():
        assert {"domain", "title", "page", "licence", "files"} <= set(entry), name
        assert entry["files"] or entry["how"], name
        for file in entry["files"]:
            assert file["url"].startswith("https://") and {"sha256", "bytes", "name"} <= set(file), name
            assert ".." not in Path(file["name"]).parts and not Path(file["name"]).is_absolute(), name
            assert file["sha256"] is None or re.fullmatch("[0-9a-f]{64}", file["sha256"]), name


def tar(path: Path, *entries: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for info, content in entries:
            info.size = len(content) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return path


def special(name: str, kind: bytes, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, b""


HOSTILE = {
    "parent": ("../evil", (tarfile.TarInfo("../evil"), b"x")),
    "absolute": ("/tmp/evil", (tarfile.TarInfo("/tmp/evil"), b"x")),
    "nested parent": ("a/../../evil", (tarfile.TarInfo("a/../../evil"), b"x")),
    "symlink": ("evil", special("evil", tarfile.SYMTYPE, "/etc/passwd")),
    "hard link": ("evil", special("evil", tarfile.LNKTYPE, "/etc/passwd")),
    "device": ("evil", special("evil", tarfile.CHRTYPE)),
    "fifo": ("evil", special("evil", tarfile.FIFOTYPE)),
    "folder": ("evil", special("evil", tarfile.DIRTYPE)),
    "too large": ("evil", (tarfile.TarInfo("evil"), b"0" * 5_000_000)),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_writes_nothing(tmp_path: Path, kind: str) -> None:
    name, entry = HOSTILE[kind]
    archive = tar(tmp_path / "a.tar.gz", entry)
    with pytest.raises(DataError):
        fetch.extract(archive, {name: {"bytes": 1000}}, tmp_path / "in")
    left = [p for p in tmp_path.rglob("*") if p.is_file() or p.is_symlink()]
    assert left == [archive] and not Path("/tmp/evil").exists()


def test_a_link_in_the_folder_is_not_followed_out(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "out").symlink_to(tmp_path)
    archive = tar(tmp_path / "a.tar.gz", (tarfile.TarInfo("out/evil"), b"x"))
    with pytest.raises(DataError, match="leaves the folder"):
        fetch.extract(archive, {"out/evil": {"bytes": 10}}, tmp_path / "in")
    assert not (tmp_path / "evil").exists()


def test_only_listed_members_come_out_and_are_verified(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("d/good.txt", "good")
        packed.writestr("bomb.txt", b"0" * 3_000_000)
    sha = hashlib.sha256(b"good").hexdigest()
    paths = fetch.extract(archive, {"d/good.txt": {"bytes": 4, "sha256": sha}}, tmp_path / "in")
    assert [p.read_text() for p in paths] == ["good"]
    for name, rule, says in [
        ("bomb.txt", {"bytes": 1000}, "larger than 1000"),
        ("d/good.txt", {"bytes": 4, "sha256": "0"}, "another sha256"),
        ("absent", {"bytes": 4}, "no such member"),
    ]:
        with pytest.raises(DataError, match=says):
            fetch.extract(archive, {name: rule}, tmp_path / "other")
    assert not [p for p in (tmp_path / "other").rglob("*") if p.is_file()]


def test_garbage_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"garbage" * 99)
    with pytest.raises(DataError, match="not a zip or tar archive"):
        fetch.extract(tmp_path / "a.tar", {"x": {"bytes": 1}}, tmp_path / "in")

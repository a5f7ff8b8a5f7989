"""The downloader against a small server on this machine."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tfrec_limaml.datasets import download, locate
from tfrec_limaml.errors import LimamlError

CONTENT = bytes(range(256)) * 5000
MD5 = hashlib.md5(CONTENT).hexdigest()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Files(BaseHTTPRequestHandler):
    def do_GET(self):
        content = self.server.files.get(self.path)
        wanted = self.headers.get("Range")
        self.server.requests.append((self.path, wanted))
        if content is None:
            self.send_error(404)
            return
        begin = (
            int(re.match(r"bytes=(\d+)-", wanted).group(1)) if wanted and self.server.ranges else 0
        )
        if begin >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        self.wfile.write(content[begin : self.server.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        server.files = {
            "/file.bin": CONTENT,
            "/file.bin.md5": f"{MD5}  file.bin\n".encode(),
            "/empty.md5": b"soon",
            "/pointer": b"version 1\noid sha256:" + SHA256.encode() + b"\nsize 5\n",
        }
        server.requests, server.ranges, server.cut = [], True, None
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_file_arrives_whole_and_is_not_fetched_twice(server, tmp_path):
    path = download.fetch(f"{server.url}/file.bin", tmp_path, MD5)
    assert path.read_bytes() == CONTENT
    download.fetch(f"{server.url}/file.bin", tmp_path, MD5)
    assert server.requests == [("/file.bin", None)]
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]


def test_a_broken_download_goes_on_where_it_stopped(server, tmp_path):
    server.cut = 700_000
    with pytest.raises(LimamlError, match=r"stopped after 700000 bytes.*again"):
        download.fetch(f"{server.url}/file.bin", tmp_path, MD5)
    assert not (tmp_path / "file.bin").exists()
    server.cut = None
    assert download.fetch(f"{server.url}/file.bin", tmp_path, MD5).read_bytes() == CONTENT
    assert server.requests[-1] == ("/file.bin", "bytes=700000-")


def test_a_server_that_ignores_ranges_sends_everything_again(server, tmp_path):
    server.ranges = False
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:1000])
    assert download.fetch(f"{server.url}/file.bin", tmp_path, MD5).read_bytes() == CONTENT


def test_a_download_that_was_complete_but_not_renamed_is_accepted(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    assert download.fetch(f"{server.url}/file.bin", tmp_path, MD5).read_bytes() == CONTENT


def test_other_bytes_than_published_are_refused_and_removed(server, tmp_path):
    with pytest.raises(LimamlError, match=f"has md5 {MD5}, expected {'0' * 32}"):
        download.fetch(f"{server.url}/file.bin", tmp_path, "0" * 32)
    assert list(tmp_path.iterdir()) == []


def test_a_published_checksum_file_is_read(server, tmp_path):
    assert download.fetch(
        f"{server.url}/file.bin", tmp_path, f"{server.url}/file.bin.md5"
    ).is_file()
    assert download.fetch(
        f"{server.url}/file.bin", tmp_path / "other", f"{server.url}/pointer"
    ).is_file()
    with pytest.raises(LimamlError, match="has sha256"):
        download.fetch(f"{server.url}/file.bin", tmp_path / "third", "0" * 64)
    with pytest.raises(LimamlError, match="holds no md5 or sha256 checksum, received 'soon'"):
        download.fetch(f"{server.url}/file.bin", tmp_path, f"{server.url}/empty.md5")


def test_a_missing_file_and_a_silent_place_say_what_to_do(server, tmp_path):
    with pytest.raises(LimamlError, match=r"HTTP 404.*--data-dir"):
        download.fetch(f"{server.url}/other.bin", tmp_path, MD5)
    with pytest.raises(
        LimamlError, match=r"cannot download http://127.0.0.1:1/file.bin.*--data-dir"
    ):
        download.fetch("http://127.0.0.1:1/file.bin", tmp_path, MD5)


def test_archives_never_write_outside_their_folder(tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as box:
        box.writestr("../evil.txt", "x")
    with tarfile.open(tmp_path / "bad.tar.gz", "w:gz") as roll:
        roll.addfile(tarfile.TarInfo("../evil.txt"), io.BytesIO())
    for name in ("bad.zip", "bad.tar.gz"):
        with pytest.raises(LimamlError, match="evil"):
            download.unpack(tmp_path / name, tmp_path / "in")
    assert not (tmp_path / "evil.txt").exists()
    (tmp_path / "broken.tar.gz").write_bytes(b"no archive")
    with pytest.raises(LimamlError, match="cannot unpack"):
        download.unpack(tmp_path / "broken.tar.gz", tmp_path / "in")


def test_what_is_not_there_is_downloaded_unpacked_and_found_the_next_time(server, tmp_path):
    box = io.BytesIO()
    with tarfile.open(fileobj=box, mode="w:gz") as roll:
        info = tarfile.TarInfo("set/data.csv")
        info.size = 3
        roll.addfile(info, io.BytesIO(b"a,b"))
    server.files["/set.tar.gz"] = box.getvalue()
    digest = hashlib.md5(box.getvalue()).hexdigest()

    def complete(folder):
        return (folder / "data.csv").is_file()

    first = locate.locate(tmp_path, "set", complete, f"{server.url}/set.tar.gz", digest)
    assert first == tmp_path / "set"
    assert (
        locate.locate(tmp_path / "set", "set", complete, f"{server.url}/set.tar.gz", digest)
        == tmp_path / "set"
    )
    assert len(server.requests) == 1
    with pytest.raises(LimamlError, match="is not a folder"):
        locate.locate(tmp_path / "nowhere", "set", complete, f"{server.url}/set.tar.gz", digest)


def test_downloads_go_to_the_named_folder_or_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv(locate.DATA_DIR_VARIABLE, str(tmp_path))
    assert locate.default_folder() == tmp_path
    monkeypatch.delenv(locate.DATA_DIR_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert locate.default_folder() == tmp_path / "cache" / "tfrec_limaml"

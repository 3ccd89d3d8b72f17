"""Weights come from this machine or, whole and checked, from a server; nothing of the user's is ever touched."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from headstart.backbones import downloads
from headstart.backbones.downloads import MIRROR, Published, folder, obtain, sha256
from headstart.errors import BadBackbone, BadSetting, DiskFull

CONTENT = np.random.default_rng(0).bytes(3_000_000)
NAME = "weights_notop.h5"


class Server(ThreadingHTTPServer):
    """Serves `content` under `NAME`; `dies` says after how many bytes each of the next answers breaks off."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.dies: list[int] = []
        self.ranges = True
        self.asked: list[str | None] = []  # the range of each request

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        span = self.headers.get("Range") if self.server.ranges else None
        self.server.asked.append(self.headers.get("Range"))
        content = self.server.content
        if not self.path.endswith(NAME):
            self.send_error(404)
            return
        start = int(span.removeprefix("bytes=").rstrip("-")) if span else 0
        if span and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if span else 200)
        if span:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.dies.pop(0) if self.server.dies else None])

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.delenv(MIRROR, raising=False)
    return tmp_path / "keras" / "models"


def published(server: Server, *, digest: str | None = hashlib.md5(CONTENT).hexdigest()) -> Published:
    return Published(NAME, f"{server.address}/some/folder/{NAME}", digest)


def left(home: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in home.iterdir()} if home.is_dir() else {}


def test_the_folder_is_the_one_of_keras(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder() == tmp_path / ".keras" / "models"


@pytest.mark.parametrize("digest", [hashlib.md5(CONTENT).hexdigest(), hashlib.sha256(CONTENT).hexdigest(), None])
def test_a_file_is_downloaded_once_with_its_progress_told(server: Server, home: Path, digest: str | None) -> None:
    told: list[tuple[int, int | None]] = []
    for _ in range(2):
        _, path, found = obtain([published(server, digest=digest)], on_progress=lambda *at: told.append(at))
    assert found == hashlib.sha256(CONTENT).hexdigest() == sha256(path)
    assert left(home) == {NAME: CONTENT}
    assert len(server.asked) == 1
    assert told == sorted(told)
    assert told[-1] == (len(CONTENT), len(CONTENT))


def test_what_is_on_the_machine_comes_before_what_fits_better(server: Server, home: Path) -> None:
    home.mkdir(parents=True)
    (home / "other.h5").write_bytes(b"here")
    other = Published("other.h5", "http://127.0.0.1:9/other.h5")
    file, path, _ = obtain([published(server), other])
    assert (file, path) == (other, home / "other.h5")
    assert not server.asked


def test_a_connection_that_breaks_goes_on_where_it_broke(server: Server, home: Path) -> None:
    server.dies = [1_000_000, 500_000]
    obtain([published(server)])
    assert server.asked == [None, "bytes=1000000-", "bytes=1500000-"]
    assert left(home) == {NAME: CONTENT}


def test_what_came_before_a_failure_is_kept_for_the_next_run(server: Server, home: Path) -> None:
    server.dies = [700_000, 0]
    with pytest.raises(BadBackbone, match="700000 bytes are kept"):
        obtain([published(server)])
    assert left(home) == {f"{NAME}.part": CONTENT[:700_000]}
    obtain([published(server)])
    assert server.asked[-1] == "bytes=700000-"
    assert left(home) == {NAME: CONTENT}


def test_a_server_without_ranges_gives_everything_again(server: Server, home: Path) -> None:
    server.ranges = False
    server.dies = [700_000]
    obtain([published(server)])
    assert left(home) == {NAME: CONTENT}


@pytest.mark.parametrize("there", [CONTENT, CONTENT + b"more"], ids=["complete", "too long"])
def test_a_part_that_is_complete_or_of_another_file_is_settled(server: Server, home: Path, there: bytes) -> None:
    home.mkdir(parents=True)
    (home / f"{NAME}.part").write_bytes(there)
    obtain([published(server)])
    assert left(home) == {NAME: CONTENT}


def test_another_content_is_never_put_in_place(server: Server, home: Path) -> None:
    server.content = CONTENT[:-1] + b"x"
    with pytest.raises(BadBackbone, match=r"not the published file: md5 .* instead of"):
        obtain([published(server)])
    assert left(home) == {}


def test_a_file_of_the_users_that_differs_is_refused_and_left_alone(server: Server, home: Path) -> None:
    home.mkdir(parents=True)
    (home / NAME).write_bytes(b"my own")
    with pytest.raises(BadBackbone, match=rf"not the published file(.|\n)*--weights .*{NAME}"):
        obtain([published(server)])
    assert left(home) == {NAME: b"my own"}
    assert not server.asked


def test_a_wrong_address_is_named_with_the_way_to_do_it_by_hand(server: Server, home: Path) -> None:
    missing = Published("missing.h5", f"{server.address}/missing.h5")
    with pytest.raises(BadBackbone, match=rf"404 Not Found\n.*missing.h5 elsewhere .*{home} as missing.h5"):
        obtain([missing])
    assert left(home) == {}


def test_without_a_network_address_name_and_folder_are_said(home: Path) -> None:
    with pytest.raises(BadBackbone, match=rf"cannot be reached(.|\n)*http://127.0.0.1:9/x.h5 .*{home} as x.h5"):
        obtain([Published("x.h5", "http://127.0.0.1:9/x.h5")])
    assert left(home) == {}


def test_a_mirror_has_the_files_under_their_own_names(
    server: Server, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MIRROR, f"{server.address}/mirror/")
    obtain([Published(NAME, f"http://127.0.0.1:9/{NAME}")])
    assert left(home) == {NAME: CONTENT}
    monkeypatch.setenv(MIRROR, "file:///etc")
    with pytest.raises(BadSetting, match="no address"):
        obtain([Published("passwd", "http://127.0.0.1:9/passwd")])


def test_two_at_once_download_it_once(server: Server, home: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: obtain([published(server)])[2], range(2)))
    assert len(set(results)) == 1
    assert left(home) == {NAME: CONTENT}
    assert len(server.asked) == 1


def test_a_folder_that_is_none_is_named(server: Server, home: Path) -> None:
    home.parent.write_text("a file")
    with pytest.raises(BadBackbone, match=r"cannot be written into .*models.*\n.*KERAS_HOME"):
        obtain([published(server)])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="who may do everything is refused nothing")
def test_a_folder_that_may_not_be_written_is_named(server: Server, home: Path) -> None:
    home.mkdir(parents=True)
    home.chmod(0o500)
    with pytest.raises(BadBackbone, match=r"cannot be written into .*Permission denied"):
        obtain([published(server)])


def test_a_full_disk_keeps_what_came(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(downloads.os, "fsync", full)
    with pytest.raises(DiskFull, match="no room to write"):
        obtain([published(server)])
    assert left(home) == {f"{NAME}.part": CONTENT}


def test_a_users_own_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadBackbone, match=r"absent.h5' cannot be read: No such file"):
        sha256(tmp_path / "absent.h5")

"""How a service starts or refuses to, takes new models and stops, and what becomes of requests meanwhile."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from headstart.errors import BadServer
from headstart.events import Event, Note
from headstart.exporting.bundle import Bundle
from headstart.outcome import outcome
from headstart.serving import bundles, service
from headstart.serving.limits import Limits
from headstart.serving.listening import listening
from headstart.serving.security import Access
from headstart.serving.swapping import Shelf

from .conftest import Headstart, interruptible
from .serving_client import Service, photo, running, until
from .serving_model import opened, write

RED = photo((250, 10, 10))


@contextmanager
def process(bundle: Path, **options: Any) -> Iterator[tuple[subprocess.Popen[str], Service]]:
    """Serve a bundle from a process of its own, with signals, while open."""
    program = Path(__file__).with_name("serving_model.py")
    started = subprocess.Popen(
        [sys.executable, "-W", "error", str(program), str(bundle), json.dumps(options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=interruptible,
    )
    assert started.stdout is not None
    first = started.stdout.readline()
    there = Service(first.partition(" at ")[2].partition(";")[0], [first])
    reader = threading.Thread(target=lambda: there.told.extend(started.stdout or ()))
    reader.start()
    try:
        assert there.address, first
        yield started, there
    finally:
        started.kill()
        started.wait()
        reader.join()
        started.stdout.close()


class Crowd:
    """Clients that ask on and on, each on a connection that it keeps, until the service is gone."""

    def __init__(self, service: Service, clients: int) -> None:
        self.labels: list[str] = []
        self.refused: list[int] = []
        self.lost: list[str] = []  # requests that were sent on an open connection and never answered
        self.over = threading.Event()
        self._service = service
        self._threads = [threading.Thread(target=self._work) for _ in range(clients)]

    def __enter__(self) -> Crowd:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while not self.over.is_set():
            connection = http.client.HTTPConnection(*self._service.place, timeout=30)
            try:
                connection.connect()
            except OSError:  # nobody listens any more: nothing was accepted
                return
            with contextlib.closing(connection):
                self._talk(connection)

    def _talk(self, connection: http.client.HTTPConnection) -> None:
        asked = 0
        while not self.over.is_set():
            try:
                connection.request("POST", "/predict", RED, {"Content-Type": "image/png"})
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException) as problem:
                # A connection may be made in the kernel's queue and die with the socket: that one was never accepted.
                if asked:
                    self.lost.append(repr(problem))
                return
            asked += 1
            if answer.status == 200:
                self.labels.append(json.loads(body)[0]["label"])
            else:
                self.refused.append(answer.status)
            if answer.will_close:
                return


# ---- stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_service_that_is_told_to_stop_under_load_answers_every_request_that_it_accepted(
    tmp_path: Path, number: int
) -> None:
    with process(write(tmp_path / "b", delay=0.02), linger_seconds=1.0) as (started, there), Crowd(there, 16) as crowd:
        until(lambda: len(crowd.labels) > 30)
        started.send_signal(number)
        assert started.wait(30) == 0
        crowd.over.set()
    assert crowd.lost == []
    assert set(crowd.refused) <= {503}
    answered = sum(" /predict 200 " in line for line in there.told)
    assert answered == len(crowd.labels)
    assert there.told[-1] == "stopped; every request that was accepted is answered\n"


def test_a_stopping_service_is_not_ready_listens_no_more_and_answers_what_is_under_way(tmp_path: Path) -> None:
    with process(write(tmp_path / "b", delay=0.7), linger_seconds=3) as (started, there):
        kept = http.client.HTTPConnection(*there.place, timeout=30)
        kept.request("GET", "/ready")
        assert kept.getresponse().read() == b'{"ready": true}'
        under_way = http.client.HTTPConnection(*there.place, timeout=30)
        under_way.request("POST", "/predict", RED)
        time.sleep(0.3)
        started.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(OSError, match="refused"):
            http.client.HTTPConnection(*there.place, timeout=30).connect()
        kept.request("GET", "/ready")
        answer = kept.getresponse()
        assert (answer.status, answer.getheader("connection")) == (503, "close")
        assert json.loads(under_way.getresponse().read())[0]["label"] == "red"
        kept.close()
        under_way.close()
        assert started.wait(30) == 0


def test_a_second_signal_cuts_off_what_is_under_way(tmp_path: Path) -> None:
    with process(write(tmp_path / "b"), linger_seconds=20) as (started, there):
        idle = http.client.HTTPConnection(*there.place, timeout=30)
        idle.request("GET", "/health")
        idle.getresponse().read()
        began = time.monotonic()
        started.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        started.send_signal(signal.SIGTERM)
        assert started.wait(10) == 0
        assert time.monotonic() - began < 8
        idle.close()


def test_a_service_ends_with_the_terminal_that_it_was_started_on(tmp_path: Path) -> None:
    master, slave = os.openpty()
    program = Path(__file__).with_name("serving_model.py")
    with subprocess.Popen(
        [sys.executable, str(program), str(write(tmp_path / "b"))],
        preexec_fn=lambda: os.login_tty(os.dup(slave)),
    ) as started:
        try:
            os.close(slave)
            os.read(master, 10)  # it has said where it listens
            os.close(master)
            assert started.wait(30) >= 0  # of itself, and not by a signal; Python cannot write out its last line
        finally:
            started.kill()


# ---- new models


def test_a_new_bundle_is_taken_while_requests_go_on_and_none_is_dropped(tmp_path: Path) -> None:
    link = tmp_path / "now"
    link.symlink_to(write(tmp_path / "old", delay=0.01))
    write(tmp_path / "new", ("cherry", "leaf", "sky"), delay=0.01)
    with process(link) as (started, there), Crowd(there, 8) as crowd:
        until(lambda: len(crowd.labels) > 10)
        assert set(crowd.labels) == {"red"}
        (tmp_path / "next").symlink_to(tmp_path / "new")
        (tmp_path / "next").rename(link)
        started.send_signal(signal.SIGHUP)
        until(lambda: "cherry" in crowd.labels)
        first = crowd.labels.index("cherry")
        until(lambda: len(crowd.labels) > first + 50)
        assert "red" not in crowd.labels[first + 16 :]  # those that were under way have the old model's answer
        assert there.figure("headstart_model_number") == 2
    assert crowd.lost == []
    assert crowd.refused == []


def test_a_new_bundle_in_the_folder_is_found_without_a_signal_and_a_bad_one_is_refused(tmp_path: Path) -> None:
    bundle = write(tmp_path / "b")
    with running(bundle) as there:
        (bundle / "classes.json").write_text("changed without a new manifest")
        until(lambda: any("refused, and the old one goes on" in line for line in there.told))
        assert there.predict(("red", RED)).json()[0]["label"] == "red"
        write(bundle, ("cherry", "leaf", "sky"))
        until(lambda: there.predict(("red", RED)).json()[0]["label"] == "cherry")
        assert there.ask("GET", "/model").json()["classes"] == ["cherry", "leaf", "sky"]
        assert there.figure("headstart_swaps_total") == 2


@pytest.mark.parametrize("classes", [("one", "two"), ("a", "b", "c", "d")])
def test_a_new_bundle_whose_graph_does_not_answer_as_it_says_is_refused(
    tmp_path: Path, classes: tuple[str, ...]
) -> None:
    bundle = write(tmp_path / "b")
    with running(bundle) as there:
        write(bundle, classes)
        until(lambda: any("does not answer as its manifest says" in line for line in there.told))
        assert there.predict(("red", RED)).json()[0]["label"] == "red"


# ---- starting


def refusal(path: Path, **options: Any) -> BadServer:
    """How `serve` refuses, before it would begin to serve."""
    with pytest.raises(BadServer) as refused:
        outcome(service.serve(path, **options), lambda event: pytest.fail(f"it went on: {event}"))
    return refused.value


def test_an_address_that_cannot_be_used_is_refused_in_one_sentence(tmp_path: Path, monkeypatch: Any) -> None:
    bundle = write(tmp_path / "b")
    with listening("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        assert refusal(bundle, port=port).what == f"port {port} of 127.0.0.1 is in use"
    assert "65536" in refusal(bundle, port=65536).what
    monkeypatch.setenv("HEADSTART_TOKEN", "a-token-of-some-length")
    assert "no.such.host.invalid" in refusal(bundle, host="no.such.host.invalid").what
    assert "192.0.2.1" in refusal(bundle, host="192.0.2.1").what  # an address of nobody


def test_an_address_that_others_can_reach_wants_a_token_that_cannot_be_guessed(tmp_path: Path) -> None:
    bundle = write(tmp_path / "b")
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        assert "no token" in refusal(bundle, host=host).what
    for token in ("short", "a token with blanks in it", "a-tökén-of-some-length", ""):
        assert "token" in refusal(bundle, token=token).what


def test_a_token_can_lie_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("a-token-of-some-length\n")
    assert Access.of("0.0.0.0", None, {"HEADSTART_TOKEN_FILE": str(file)}).token == "a-token-of-some-length"
    with pytest.raises(BadServer, match="No such file"):
        Access.of("0.0.0.0", None, {"HEADSTART_TOKEN_FILE": str(tmp_path / "nowhere")})
    file.write_text("")
    with pytest.raises(BadServer, match="0 characters"):  # and not a service without one
        Access.of("127.0.0.1", None, {"HEADSTART_TOKEN_FILE": str(file)})


def test_what_is_neither_a_bundle_nor_a_run_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "nowhere", port=0).what
    assert "neither a bundle nor a run" in refusal(tmp_path, port=0).what
    assert "0 workers" in refusal(tmp_path, workers=0).what


def test_a_missing_library_is_named_with_what_installs_it(tmp_path: Path, monkeypatch: Any) -> None:
    find = service.importlib.util.find_spec
    monkeypatch.setattr(service.importlib.util, "find_spec", lambda name: None if name == "fastapi" else find(name))
    refused = refusal(tmp_path)
    assert (refused.what[:7], refused.fix) == ("FastAPI", 'pip install "headstart[serve]"')


def test_limits_of_the_environment_are_numbers_above_zero() -> None:
    assert Limits.of({"HEADSTART_SERVE_BODY": "1000", "HEADSTART_SERVE_SECONDS": "2.5"}).seconds == 2.5
    for value in ("0", "-1", "many", "1.5", "", "nan", "inf"):
        with pytest.raises(BadServer, match="HEADSTART_SERVE_BODY"):
            Limits.of({"HEADSTART_SERVE_BODY": value})
    with pytest.raises(BadServer, match="queue of 10"):
        Limits.of({"HEADSTART_SERVE_QUEUE": "10"})


def test_origins_and_hosts_can_be_allowed_by_name() -> None:
    access = Access.of(
        "127.0.0.1", None, {"HEADSTART_SERVE_HOSTS": "a.example", "HEADSTART_SERVE_ORIGINS": "https://b.example"}
    )
    access.check("GET", "/", {b"host": b"a.example:80", b"origin": b"https://b.example"}, opened=False)


def test_a_run_is_exported_once_and_found_again_the_next_time(tmp_path: Path, monkeypatch: Any) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text("seed = 0")
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    exported: list[Path] = []

    def export(path: Path, *, to: str, out: Path, precision: str) -> Generator[Event, None, Bundle]:
        exported.append(path)
        assert (to, precision) == ("openvino", "fp32")
        yield Note(text="exporting")
        return Bundle.open(write(out))

    monkeypatch.setitem(sys.modules, "headstart.exporting.exporting", SimpleNamespace(export=export))
    told: list[Event] = []
    first = outcome(bundles.bundle_of(run), told.append)
    assert outcome(bundles.bundle_of(run), told.append) == first
    assert exported == [run]
    (first / "classes.json").write_text("damaged")
    assert outcome(bundles.bundle_of(run), told.append) == first
    (run / "config.toml").write_text("seed = 1")
    assert outcome(bundles.bundle_of(run), told.append) != first
    assert len(exported) == 3
    assert outcome(bundles.bundle_of(first), told.append) == first


def test_the_shelf_keeps_its_model_when_opening_the_next_one_fails_in_any_way(tmp_path: Path) -> None:
    bundle = write(tmp_path / "b")
    shelf = Shelf(bundle, most_pixels=10**6, batch=1, opening=opened)
    before = shelf.current
    (bundle / "classes.json").unlink()
    assert shelf.changed()
    with pytest.raises(Exception, match="lacks its file"):
        shelf.swap()
    assert shelf.current is before
    assert not shelf.changed()
    shutil.rmtree(bundle)
    assert not shelf.changed()


def test_a_service_ends_when_whoever_runs_it_lets_go(tmp_path: Path) -> None:
    before = threading.active_count()
    with running(write(tmp_path / "b")) as there:
        assert there.ask("GET", "/ready").status == 200
    assert threading.active_count() == before


def test_the_command_line_refuses_without_a_traceback(headstart: Headstart, tmp_path: Path) -> None:
    done = headstart("serve", tmp_path / "nowhere", "--port", 0)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {str(tmp_path / 'nowhere')!r} does not exist\n"
        "hint: give the folder that headstart train or headstart export printed\n"
    )
    assert done.stdout == ""

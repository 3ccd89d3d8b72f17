"""What somebody who asks the service gets to see."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .serving_client import Service, form, photo, running, until
from .serving_model import write

RED, GREEN, BLUE, GREY = (250, 10, 10), (10, 250, 10), (10, 10, 250), (90, 90, 90)
TOKEN = "a-token-of-some-length"
LIMITS = {
    "body": 200_000,
    "files": 4,
    "queue": 8,
    "pixels": 1_000_000,
    "head_seconds": 0.6,
    "head": 4096,
    "connections": 20,
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(write(tmp_path_factory.mktemp("bundle") / "b"), **LIMITS) as service:
        yield service


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A model that takes 0.4 s for each pass, a thread, and a queue of four photos."""
    bundle = write(tmp_path_factory.mktemp("slow") / "b", delay=0.4)
    with running(bundle, workers=1, queue=4, files=4, seconds=1.5, batch=1) as service:
        yield service


# ---- answers


def test_photos_of_a_form_are_answered_in_their_order_and_a_bad_one_has_its_reason(service: Service) -> None:
    reply = service.predict(("b.png", photo(BLUE)), ("notes.txt", b"not a photo"), ("r.jpg", photo(RED, kind="JPEG")))
    assert reply.status == 200
    blue, notes, red = reply.json()
    assert [blue["label"], red["label"]] == ["blue", "red"]
    assert [blue["file"], notes["file"], red["file"]] == ["b.png", "notes.txt", "r.jpg"]
    assert "not a photo" in notes["error"]
    assert blue["probability"] == blue["top"][0]["probability"] > 0.9
    assert red["top"][0]["label"] == "red"
    assert len(red["top"]) == 3


def test_the_bytes_of_a_photo_alone_are_answered_whatever_type_is_declared(service: Service) -> None:
    for kind in ("image/png", "image/jpeg", "application/octet-stream", "image/strange; q=1", None):
        (answer,) = service.ask("POST", "/predict?top_k=1", photo(GREEN), kind).json()
        assert answer["label"] == "green"
        assert answer["file"] is None
        assert len(answer["top"]) == 1


def test_a_photo_like_none_of_the_training_is_unsure(service: Service) -> None:
    grey, red = service.predict(("grey", photo(GREY)), ("red", photo(RED))).json()
    assert (grey["unsure"], red["unsure"]) == (True, False)
    assert grey["distance"] > 0.5 > red["distance"]


def test_a_request_without_a_usable_photo_says_why_for_each(service: Service) -> None:
    reply = service.predict(("a.txt", b"text"), ("empty.jpg", b""))
    assert reply.status == 422
    assert [each["file"] for each in reply.json()["photos"]] == ["a.txt", "empty.jpg"]
    assert reply.json()["photos"][1]["error"] == "empty file"
    assert service.ask("POST", "/predict", b"<html>", "image/jpeg").status == 422
    assert service.ask("POST", "/predict").status == 422
    body, kind = form(("red.png", photo(RED)), field="photo")
    assert "field that is called file" in service.ask("POST", "/predict", body, kind).json()["hint"]


def test_names_of_files_come_back_as_they_were_sent(service: Service) -> None:
    for name in ("ünï.png", "../../etc/passwd", "a b;c.png", "\U0001f41d.png"):
        assert service.predict((name, photo(RED))).json()[0]["file"] == name


def test_the_heat_of_a_photo_comes_as_a_picture_or_in_numbers(service: Service) -> None:
    body, kind = form(("red.png", photo(RED)))
    drawn = service.ask("POST", "/explain", body, kind)
    assert drawn.headers["content-type"] == "image/png"
    assert drawn.body.startswith(b"\x89PNG")
    assert service.ask("POST", "/explain?format=jpeg", photo(RED)).body.startswith(b"\xff\xd8")
    told = service.ask("POST", "/explain?format=json&label=blue", photo(RED), "image/png").json()
    assert told["label"] == "blue"
    assert len(told["heat"]) == len(told["heat"][0]) == 4
    refused = service.ask("POST", "/explain?label=blu", photo(RED), "image/png")
    assert refused.status == 422
    assert "'blue'" in refused.json()["hint"]
    body, kind = form(("a", photo(RED)), ("b", photo(RED)))
    assert service.ask("POST", "/explain", body, kind).status == 422
    assert service.ask("POST", "/explain", b"text").status == 422


def test_the_card_tells_of_the_model_and_not_of_the_machine(service: Service) -> None:
    card = service.ask("GET", "/model").json()
    assert card["classes"] == ["red", "green", "blue"]
    assert card["card"] == {"accuracy": 0.9}
    assert card["limits"] == {"body": 200_000, "files": 4, "pixels": 1_000_000}


def test_parameters_that_make_no_sense_are_refused_in_one_sentence(service: Service) -> None:
    for query in ("top_k=0", "top_k=x", "top_k=", "top_k=-1"):
        reply = service.ask("POST", f"/predict?{query}", photo(RED))
        assert reply.status == 422
        assert reply.json()["error"].startswith("top_k is not usable")
    assert service.ask("POST", "/explain?format=gif", photo(RED)).status == 422


def test_paths_and_methods_that_there_are_not_are_refused_in_the_same_form(service: Service) -> None:
    assert service.ask("GET", "/nothing").status == 404
    assert service.ask("GET", "/../../etc/passwd").status == 404
    slash = service.ask("POST", "/predict/", photo(RED))  # not sent on: the address there would be a proxy's
    assert (slash.status, slash.json()["hint"]) == (404, "did you mean '/predict'?")
    put = service.ask("PUT", "/predict", b"x")
    assert (put.status, put.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("path", ["/", "/app.js", "/docs", "/openapi.json", "/health", "/ready", "/model", "/metrics"])
def test_head_says_what_get_does_and_leaves_the_body_out(service: Service, path: str) -> None:
    told = [service.ask(method, path) for method in ("GET", "HEAD")]
    (got, body), (head, nothing) = [({**each.headers}, each.body) for each in told]
    if path == "/metrics":  # they count
        got.pop("content-length"), head.pop("content-length")
    for headers in (got, head):
        headers.pop("date")
    assert told[0].status == told[1].status == 200
    assert head == got
    assert body
    assert not nothing


def test_head_does_not_take_photos_and_is_allowed_where_get_is(service: Service) -> None:
    head = service.ask("HEAD", "/predict")
    assert (head.status, head.headers["allow"]) == (405, "POST")
    assert service.ask("DELETE", "/model").headers["allow"] == "GET, HEAD"


def test_figures_count_requests_and_photos(service: Service) -> None:
    before = service.figure("headstart_photos_total")
    service.predict(("red", photo(RED)), ("text", b"text"))
    assert service.figure("headstart_photos_total") == before + 2
    assert service.figure("headstart_request_seconds_count") > 0
    assert service.figure("process_cpu_seconds_total") > 0
    assert service.figure("headstart_queue_photos") == 0
    service.ask("GET", "/made-up-by-a-stranger")
    assert b"stranger" not in service.ask("GET", "/metrics").body


def test_what_is_told_of_a_request_names_no_photo(service: Service) -> None:
    service.predict(("very-private.jpg", photo(RED)))
    service.ask("GET", "/line%0A%1B[31mbreak")
    until(lambda: any("break" in line for line in service.told))
    assert any("POST /predict 200" in line for line in service.told)
    assert not any("private" in line or "\x1b" in line or "\n" in line for line in service.told)


# ---- limits


def test_what_is_too_large_too_many_or_of_another_kind_is_refused(service: Service) -> None:
    assert service.ask("POST", "/predict", bytes(200_001), "image/png").status == 413
    assert service.predict(*[("a", photo(RED))] * 5).status == 413
    assert service.ask("POST", "/predict", b"{}", "application/json").status == 415
    assert service.ask("POST", "/predict", b"a=b", "application/x-www-form-urlencoded").status == 415
    large = service.ask("POST", "/predict", photo(RED, size=(1001, 1000)), "image/png")
    assert large.status == 422
    assert large.json()["error"] == "too large: 1001 x 1000 pixels are more than 1,000,000"


def test_a_client_that_sends_all_before_it_reads_gets_to_read_the_refusal(service: Service) -> None:
    assert service.ask("POST", "/predict", bytes(8_000_000), "image/png").status == 413
    assert service.ask("POST", "/predict", bytes(8_000_000), headers={"Host": "evil.example"}).status == 400


def test_a_body_without_a_length_is_cut_off_at_the_limit(service: Service) -> None:
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert service.raw(head + chunk * 4 + b"0\r\n\r\n").startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"nothing of a form", "multipart/form-data; boundary=edge"),
        (form(("a", b"x"))[0][:-4], "multipart/form-data; boundary=edge"),
        (form(("a", b"x"))[0], "multipart/form-data"),
        (form(("a", b"x"))[0], "multipart/form-data; boundary=other"),
        (form(("a", b"x"))[0], "multipart/form-data; boundary=" + "e" * 300),
        (
            b"--edge\r\nContent-Disposition\x00: form-data\r\n\r\nx\r\n--edge--\r\n",
            "multipart/form-data; boundary=edge",
        ),
        (b"--edge\r\n" + b"A: b\r\n" * 100 + b"\r\nx\r\n--edge--\r\n", "multipart/form-data; boundary=edge"),
    ],
)
def test_a_damaged_form_is_refused(service: Service, body: bytes, kind: str) -> None:
    reply = service.ask("POST", "/predict", body, kind)
    assert reply.status == 400
    assert "form" in reply.json()["error"]


def test_what_is_no_http_is_refused_in_the_same_form(service: Service) -> None:
    nonsense = service.raw(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
    assert nonsense.startswith(b"HTTP/1.1 400")
    assert b'"hint"' in nonsense
    assert b"nosniff" in nonsense
    long = service.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 5000)
    assert long.startswith(b"HTTP/1.1 431")
    both = (
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    assert service.raw(both).startswith(b"HTTP/1.1 400")
    broken = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n"
    assert service.raw(broken).startswith(b"HTTP/1.1 400")


def test_a_client_that_sends_its_first_lines_slowly_is_turned_away(service: Service) -> None:
    began = time.monotonic()
    with socket.create_connection(service.place, timeout=10) as connection:
        received = b""
        for letter in b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: yes":
            connection.sendall(bytes([letter]))
            connection.settimeout(0.05)
            try:
                received = connection.recv(1000)
                break
            except TimeoutError:
                continue
    assert received.startswith(b"HTTP/1.1 408")
    assert time.monotonic() - began < 5


def test_a_client_that_sends_its_photo_slowly_is_turned_away(slow: Service) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc"
    assert slow.raw(head).startswith(b"HTTP/1.1 408")


def test_more_connections_than_are_allowed_are_refused_and_none_is_lost(service: Service) -> None:
    open_ones = [socket.create_connection(service.place, timeout=10) for _ in range(30)]
    try:
        refused = open_ones[-1].recv(4000)
        assert refused.startswith(b"HTTP/1.1 503")
        assert b"retry-after" in refused
    finally:
        for connection in open_ones:
            connection.close()
    until(lambda: service.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")[9:12] == b"200")


def test_a_full_queue_says_so_at_once_and_accepted_requests_are_answered(slow: Service) -> None:
    def ask(_: int) -> tuple[int, float, str]:
        began = time.monotonic()
        reply = slow.predict(("red", photo(RED)))
        return reply.status, time.monotonic() - began, reply.headers.get("retry-after", "")

    with ThreadPoolExecutor(16) as pool:
        seen = list(pool.map(ask, range(16)))
    statuses = {status for status, _, _ in seen}
    assert statuses <= {200, 503, 504}
    assert {200, 503} <= statuses
    refused = [(took, again) for status, took, again in seen if status == 503]
    assert all(int(again) >= 1 for _, again in refused)
    assert min(took for took, _ in refused) < 0.4
    until(lambda: slow.figure("headstart_queue_photos") == 0)


def test_an_answer_that_takes_too_long_is_given_up_with_a_reason(slow: Service) -> None:
    reply = slow.predict(*[("red", photo(RED))] * 4)
    assert reply.status == 504
    assert "1.5 s" in reply.json()["error"]
    until(lambda: slow.figure("headstart_queue_photos") == 0)
    until(lambda: slow.predict(("red", photo(RED))).status == 200)


def test_what_a_client_does_not_wait_for_is_not_computed(slow: Service) -> None:
    before = slow.figure("headstart_batch_photos_count")
    body, kind = form(*[("red", photo(RED))] * 3)
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(slow.place, timeout=10) as connection:
        connection.sendall(head.encode() + body)
        until(lambda: slow.figure("headstart_queue_photos") == 2)
    until(lambda: slow.figure("headstart_queue_photos") == 0)
    until(lambda: slow.predict(("red", photo(RED))).status == 200)
    assert slow.figure("headstart_batch_photos_count") - before <= 3  # of four
    assert b'status="499"' in slow.ask("GET", "/metrics").body


# ---- who is let in


def test_another_host_name_or_a_page_from_elsewhere_is_refused(service: Service) -> None:
    port = service.place[1]
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", ""):
        assert service.ask("GET", "/health", headers={"Host": host}).status == 400
    for host in (f"localhost:{port}", "127.0.0.1", f"[::1]:{port}", f"LOCALHOST:{port}"):
        assert service.ask("GET", "/health", headers={"Host": host}).status == 200
    for origin in ("https://evil.example", "null", f"http://localhost:{port + 1}"):
        headers = {"Host": f"localhost:{port}", "Origin": origin}
        assert service.ask("POST", "/predict", photo(RED), headers=headers).status == 403
    own = {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"}
    reply = service.ask("POST", "/predict", photo(RED), headers=own)
    assert reply.status == 200
    assert "access-control-allow-origin" not in reply.headers


def test_a_service_with_a_token_answers_only_those_who_send_it(tmp_path: Path) -> None:
    with running(write(tmp_path / "b"), token=TOKEN) as service:
        for path in ("/health", "/ready", "/", "/docs", "/openapi.json"):
            assert service.ask("GET", path).status == 200
        for given in (None, "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}"):
            headers = {} if given is None else {"Authorization": given}
            for method, path in (("GET", "/model"), ("GET", "/metrics"), ("POST", "/predict"), ("POST", "/explain")):
                reply = service.ask(method, path, headers=headers)
                assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert service.ask("POST", "/predict", photo(RED), headers=right).status == 200
        assert not any(TOKEN in line for line in service.told)


# ---- what a browser shows


def test_pages_ask_nobody_else(service: Service) -> None:
    for path in ("/", "/docs"):
        page = service.ask("GET", path)
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert not re.search(rb"(src|href)=[\"']?(https?:)?//", page.body)
    assert b"/predict" in service.ask("GET", "/docs").body


def test_every_answer_but_the_page_stays_out_of_caches(service: Service) -> None:
    assert service.ask("POST", "/predict", photo(RED)).headers["cache-control"] == "no-store"
    assert service.ask("GET", "/model").headers["cache-control"] == "no-store"


def test_a_small_connection_is_kept_for_the_next_request(service: Service) -> None:
    twice = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2
    last = b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert service.raw(twice + last).count(b"HTTP/1.1 200 OK") == 3

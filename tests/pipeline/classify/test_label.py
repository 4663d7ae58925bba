"""The labeling server: answers over HTTP, what it refuses, and kills in the middle of labeling."""

import http.client
import json
import runpy
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builders import write_toy_queue
from conftest import REPOSITORY_ROOT
from deblora.cli.main import main
from deblora.errors import ArtifactError, DataError
from deblora.pipeline.classify.label import MAX_BODY, LabelServer, open_server
from deblora.pipeline.classify.queue import Labels, merge_labels, read_queue

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LabelServer]:
    write_toy_queue(tmp_path / "queue", names=("checks", "<b>rows</b>", "=slope"))
    with open_server(tmp_path / "queue") as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def send(
    server: LabelServer,
    path: str,
    body: Any = None,
    *,
    token: str | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    prefix = server.token if token is None else token
    sent = body if body is None or isinstance(body, bytes | str) else json.dumps(body)
    connection.request(
        "GET" if body is None else "POST", f"/{prefix}/{path}", sent, JSON if headers is None else headers
    )
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content


def state(server: LabelServer) -> dict[str, Any]:
    return dict(json.loads(send(server, "state")[2]))


def test_labels_are_on_the_disk_when_they_are_acknowledged(server: LabelServer) -> None:
    queue = server.labeling.queue
    for row, label, kind in [
        (0, "checks", "labeled"),
        (2, "", "skipped"),
        (1, "=slope", "labeled"),
        (3, "", "unsure"),
    ]:
        status, _, content = send(server, "label", {"row": row, "label": label, "state": kind})
        assert status == 200 and json.loads(content)["saved"] == row
        assert list(Labels(queue).answers)[-1] == queue.chips[row].id
    assert merge_labels(queue).labels == {"scene/0.png": "checks", "scene/1.png": "=slope"}
    assert json.loads(send(server, "undo", {})[2])["undone"] == 3
    assert [own["row"] for own in state(server)["answers"]] == [0, 2, 1]
    assert server.labeling.summary() == "6 chips: 2 labeled, 1 skipped"


def test_a_class_is_founded_on_request_only(server: LabelServer) -> None:
    asked = {"row": 0, "label": "crane ship", "state": "labeled"}
    assert send(server, "label", asked)[0] == 409
    assert send(server, "label", {**asked, "label": "Checks", "is_new": True})[0] == 409  # there is checks
    assert send(server, "label", {**asked, "is_new": True})[0] == 200
    assert state(server)["classes"][-1] == {"name": "crane ship", "group": "new", "n_labels": 0}
    assert send(server, "label", {**asked, "row": 1})[0] == 200  # now it is one
    for _ in range(2):
        send(server, "undo", {})
    assert [own["name"] for own in state(server)["classes"]] == ["checks", "<b>rows</b>", "=slope"]


def test_the_page_runs_no_script_but_its_own_and_pictures_are_served(server: LabelServer) -> None:
    status, headers, page = send(server, "")
    policy = headers["Content-Security-Policy"]
    assert status == 200 and b"NONCE" not in page and f'nonce="{server.nonce}"'.encode() in page
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert headers["Referrer-Policy"] == "no-referrer" and headers["Cache-Control"] == "no-store"
    assert "Python" not in headers["Server"]
    assert send(server, "pictures/5.png")[2] == server.labeling.queue.picture(5).read_bytes()


@pytest.mark.parametrize("token", ["", "x", "x" * 43, "%00", "..", "\u00e9"])
def test_without_the_token_there_is_nothing(server: LabelServer, token: str) -> None:
    for path in ("", "state", "pictures/0.png"):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
        connection.putrequest("GET", "/x", skip_accept_encoding=True)
        connection._buffer[0] = f"GET /{token}/{path} HTTP/1.1".encode("latin-1")  # type: ignore[attr-defined]
        connection.endheaders()
        assert connection.getresponse().status == 404
        connection.close()
    assert (
        send(server, "label", {"row": 0, "label": "checks", "state": "labeled"}, token=server.token[:-1])[0]
        == 404
    )
    assert not server.labeling.labels.path.exists()


@pytest.mark.parametrize(
    "path",
    [
        "pictures/6.png", "pictures/-1.png", "pictures/00.png", "pictures/0.png/", "pictures/../queue.json", "labels.csv",
        "pictures/..%2fqueue.json", "../queue.json", "queue.json", "pictures/\u00b2.png".encode().decode("latin-1"),
        "pictures/", "state?x", "/state", "pictures/" + "9" * 9 + ".png",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_pictures(server: LabelServer, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.putrequest("GET", "/x")
    connection._buffer[0] = f"GET /{server.token}/{path} HTTP/1.1".encode("latin-1")  # type: ignore[attr-defined]
    connection.endheaders()
    assert connection.getresponse().status == 404
    connection.close()


def test_a_link_out_of_the_queue_is_not_followed(server: LabelServer, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    picture = server.labeling.queue.picture(0)
    picture.unlink()
    picture.symlink_to(tmp_path / "secret.png")
    assert send(server, "pictures/0.png")[0] == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example", **JSON}, 421),
        ({"Host": "127.0.0.1", **JSON}, 421),
        ({"Origin": "http://evil.example", **JSON}, 403),
        ({"Origin": "null", **JSON}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Transfer-Encoding": "chunked", **JSON}, 415),
    ],
)
def test_requests_of_other_pages_and_hosts_are_refused(
    server: LabelServer, headers: dict[str, str], status: int
) -> None:
    body = json.dumps({"row": 0, "label": "checks", "state": "labeled"})
    if "Transfer-Encoding" in headers:
        body = f"{len(body):x}\r\n{body}\r\n0\r\n\r\n"
    assert send(server, "label", body, headers=headers)[0] == status
    assert not server.labeling.labels.path.exists()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b"\xff", 400),
        (b"[" * 4000, 400),
        (b"x" * (MAX_BODY + 1), 413),
        ({}, 409),
        ({"row": True, "label": "checks", "state": "labeled"}, 409),
        ({"row": 6, "label": "checks", "state": "labeled"}, 409),
        ({"row": 0, "label": ["checks"], "state": "labeled"}, 409),
        ({"row": 0, "label": "checks", "state": "sure"}, 409),
        ({"row": 0, "label": "a\u0000b", "state": "labeled", "is_new": True}, 409),
        ({"row": 0, "label": "", "state": "labeled", "is_new": True}, 409),
        ({"row": 0, "label": "x" * 81, "state": "labeled", "is_new": True}, 409),
    ],
)
def test_bad_requests_change_nothing(server: LabelServer, body: Any, status: int) -> None:
    assert send(server, "label", body)[0] == status
    assert not server.labeling.labels.path.exists()
    assert send(server, "state")[0] == 200  # still there


def test_what_is_not_saved_is_not_acknowledged(server: LabelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("deblora.pipeline.classify.queue.write_atomic", full)
    status, _, content = send(server, "label", {"row": 0, "label": "checks", "state": "labeled"})
    assert status == 507 and content == b"not saved: No space left on device"
    assert state(server)["answers"] == []


def test_many_labelers_at_a_time_and_one_process_each(tmp_path: Path) -> None:
    root = write_toy_queue(tmp_path / "queue").root
    with open_server(root, labeler="anna") as anna:
        with pytest.raises(ArtifactError, match="another process"), open_server(root, labeler="anna"):
            pass
        with open_server(root, labeler="ben") as ben:
            assert anna.token != ben.token and anna.server_port != ben.server_port
            with pytest.raises(DataError, match="port .* cannot be used"):
                LabelServer(ben.labeling, port=anna.server_port)
            anna.labeling.answer({"row": 2, "label": "buoy", "state": "labeled", "is_new": True})
            ben.labeling.answer({"row": 2, "label": "slope", "state": "labeled"})
    with open_server(root, labeler="carl") as carl:
        assert "buoy" in carl.labeling.class_names  # what another has founded can be chosen
    with open_server(root, labeler="decided") as decided:
        shown = decided.labeling.state()["chips"]
        assert [own["row"] for own in shown] == [2] and shown[0]["said"] == "anna: buoy · ben: slope"
        with pytest.raises(DataError):
            decided.labeling.answer({"row": 0, "label": "slope", "state": "labeled"})
        decided.labeling.answer({"row": 2, "label": "buoy", "state": "labeled"})
    assert merge_labels(read_queue(root)).labels == {"scene/2.png": "buoy"}


def test_nothing_to_decide_and_no_queue_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_toy_queue(tmp_path / "queue").root
    assert main(["label", str(root), "--labeler", "decided"]) == 2
    assert "nothing to decide" in capsys.readouterr().err
    assert main(["label", str(tmp_path)]) == 2
    assert "is no queue" in capsys.readouterr().err
    assert main(["label", str(root), "--port", "70000"]) == 2
    assert "--port is 70000" in capsys.readouterr().err


def test_kills_lose_nothing(tmp_path: Path) -> None:
    script = runpy.run_path(str(REPOSITORY_ROOT / "benchmarks" / "label_kills.py"))
    found = script["kill_often"](tmp_path / "queue", 3)
    assert found["lost"] == 0 and found["acknowledged"] > 0

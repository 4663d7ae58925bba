"""``deblora label``: a page for labeling a queue, served to this machine alone and saved after every key press.

The address holds a random token, compared in constant time on every request. Requests for another host name (DNS
rebinding) or from another page (``Origin``) are refused; nothing is served but the page, the state and the pictures of
the queue; the page may run no script but its own. An answer is on the disk before it is acknowledged.
"""

import hmac
import json
import logging
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from socketserver import TCPServer
from typing import Any

from filelock import FileLock, Timeout

from deblora.errors import ArtifactError, DataError
from deblora.files import is_leftover
from deblora.pipeline.classify.queue import (
    DECIDED,
    STATES,
    Labels,
    Queue,
    checked_name,
    merge_labels,
    read_labels,
    read_queue,
)

log = logging.getLogger("deblora")
HOST = "127.0.0.1"
MAX_BODY = 4096
"""Bytes of a request; an answer has about a hundred (ours)."""
MAX_PATH = 512
TIMEOUT_S = 30.0
"""After which a connection that says nothing is closed (ours)."""
MAX_REQUESTS = 32
"""Answered at the same time; more wait (ours)."""


class _Refused(Exception):
    """A request that is not answered, with the status that says why."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class Labeling:
    """What the page shows and what it can ask for: one labeler's answers to a queue, changed by one request at a time.

    Attributes:
        queue: The chips.
        labels: The answers.
        rows: Chips to show, in order: all of them, or for the labeler ``decided`` those that others disagree on.
    """

    def __init__(self, queue: Queue, labeler: str = "") -> None:
        """Read the answers of all labelers.

        Raises:
            ArtifactError: If a file of labels is damaged.
            DataError: If the name of the labeler is none that a file can have, or there is nothing to decide.
        """
        self.queue, self.labels = queue, Labels(queue, labeler)
        self._lock = threading.Lock()
        self.rows = list(range(len(queue.chips)))
        self._opinions: dict[str, str] = {}
        others = [path for path in sorted(queue.root.glob("labels*.csv")) if path != self.labels.path]
        given = [own.label for path in others for own in read_labels(path, queue).values() if own.label]
        self._others_classes = list(dict.fromkeys(given))
        if labeler == DECIDED:
            apart = merge_labels(queue).disagreements
            asked = {*apart, *self.labels.answers}
            self.rows = [row for row in self.rows if queue.chips[row].id in asked]
            self._opinions = {
                chip_id: " · ".join(f"{name or 'labels.csv'}: {label}" for name, label in said.items())
                for chip_id, said in apart.items()
            }
            if not self.rows:
                raise DataError(
                    f"{queue.root}: labelers agree on every chip that two of them saw; nothing to decide"
                )

    @property
    def class_names(self) -> list[str]:
        """Classes of the run, those that other labelers have founded, and those of this one."""
        own = [answer.label for answer in self.labels.answers.values() if answer.label]
        return list(dict.fromkeys([*(c.name for c in self.queue.classes), *self._others_classes, *own]))

    def state(self) -> dict[str, Any]:
        """Return all that the page shows, as JSON values."""
        with self._lock:
            names, known = self.class_names, {own.name: own for own in self.queue.classes}
            row_of = {chip.id: row for row, chip in enumerate(self.queue.chips)}
            return {
                "title": self.queue.root.resolve().name,
                "run": self.queue.run_folder,
                "labeler": self.labels.labeler,
                "classes": [
                    {
                        "name": name,
                        "group": known[name].group if name in known else "new",
                        "n_labels": known[name].n_labels if name in known else 0,
                    }
                    for name in names
                ],
                "chips": [
                    {"row": row, "said": self._opinions.get(chip.id, ""), **vars(chip)}
                    for row, chip in ((row, self.queue.chips[row]) for row in self.rows)
                ],
                "answers": [
                    {"row": row_of[chip_id], "label": own.label, "state": own.state}
                    for chip_id, own in self.labels.answers.items()
                ],
            }

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Save an answer: ``row``, ``state``, and for ``labeled`` the ``label``; ``is_new`` founds its class.

        Raises:
            DataError: If it is none: an unknown row, state or class, or a new class that there is.
        """
        row, state, label = asked.get("row"), asked.get("state"), asked.get("label", "")
        if type(row) is not int or row not in self.rows or state not in STATES or not isinstance(label, str):
            raise DataError("an answer needs a row of the queue, a state and a label")
        with self._lock:
            if state == "labeled":
                names = self.class_names
                label = checked_name(label, names)
                if label not in names and asked.get("is_new") is not True:
                    raise DataError(f"{label!r} is no class yet; choose it as a new one")
            self.labels.give(row, label, state)
            return {"saved": row, "n_answers": len(self.labels.answers)}

    def undo(self, _: dict[str, Any]) -> dict[str, Any]:
        """Take the last answer back."""
        with self._lock:
            return {"undone": self.labels.undo(), "n_answers": len(self.labels.answers)}

    def summary(self) -> str:
        """Say how far the labeling is."""
        states = Counter(own.state for own in self.labels.answers.values())
        parts = ", ".join(f"{states[state]} {state}" for state in STATES if states[state]) or "no answer"
        return f"{len(self.rows)} chips: {parts}"


class _Handler(BaseHTTPRequestHandler):
    """Answers one request; ``server`` knows the token and the labeling."""

    server: "LabelServer"
    protocol_version = "HTTP/1.1"
    timeout = TIMEOUT_S
    wbufsize = -1  # head and body in one piece

    def do_GET(self) -> None:
        """Serve the page, the state or a picture."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """Save an answer or take one back."""
        self._answer(self._post)

    def version_string(self) -> str:
        """Say nothing about the machine."""
        return "deblora"

    def log_message(self, format: str, *args: Any) -> None:
        """Keep addresses, which hold the token, out of the terminal."""

    def _answer(self, work: Callable[[str], tuple[bytes, str]]) -> None:
        with self.server.places:
            try:
                body, kind = work(self._checked())
                status = HTTPStatus.OK
            except _Refused as error:
                status, body, kind = error.status, str(error).encode(), "text/plain; charset=utf-8"
            except DataError as error:
                status, body, kind = HTTPStatus.CONFLICT, str(error).encode(), "text/plain; charset=utf-8"
            except OSError as error:  # a full disk: the answer is not saved, and the page must know
                status, body = HTTPStatus.INSUFFICIENT_STORAGE, f"not saved: {error.strerror}".encode()
                kind = "text/plain; charset=utf-8"
            if status != HTTPStatus.OK:
                self.close_connection = True  # what is left of the request is not read as another one
            self._send(status, body, kind)

    def _checked(self) -> str:
        """Return what is asked for behind the token, after checking host, origin and token."""
        port = self.server.server_port
        hosts = {f"{HOST}:{port}", f"localhost:{port}"}
        if len(self.path) > MAX_PATH:
            raise _Refused(HTTPStatus.REQUEST_URI_TOO_LONG, "too long")
        if self.headers.get_all("Host", []) not in [[host] for host in hosts]:
            raise _Refused(HTTPStatus.MISDIRECTED_REQUEST, "another host")
        if self.headers.get("Origin") not in (None, *(f"http://{host}" for host in hosts)):
            raise _Refused(HTTPStatus.FORBIDDEN, "another page")
        token, slash, rest = self.path.removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode("utf-8", "replace"), self.server.token.encode()) or not slash:
            raise _Refused(HTTPStatus.NOT_FOUND, "not found")
        return rest

    def _get(self, name: str) -> tuple[bytes, str]:
        if name == "":
            return self.server.page, "text/html; charset=utf-8"
        if name == "state":
            return json.dumps(self.server.labeling.state()).encode(), "application/json"
        row = name.removeprefix("pictures/").removesuffix(".png")
        if name == f"pictures/{row}.png" and row.isascii() and row.isdigit() and len(row) < 10:
            number = int(row)
            if str(number) == row and number < len(self.server.labeling.queue.chips):
                return self._picture(self.server.labeling.queue.picture(number)), "image/png"
        raise _Refused(HTTPStatus.NOT_FOUND, "not found")

    def _picture(self, path: Path) -> bytes:
        if not path.resolve().is_relative_to(self.server.labeling.queue.root.resolve()) or not path.is_file():
            raise _Refused(HTTPStatus.NOT_FOUND, "not found")  # a link that leads out of the queue
        return path.read_bytes()

    def _post(self, name: str) -> tuple[bytes, str]:
        actions = {"label": self.server.labeling.answer, "undo": self.server.labeling.undo}
        if name not in actions:
            raise _Refused(HTTPStatus.NOT_FOUND, "not found")
        if self.headers.get_content_type() != "application/json" or "Transfer-Encoding" in self.headers:
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send JSON of a known length")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "send JSON of a known length")
        if len(length) > 9 or int(length) > MAX_BODY:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too large")
        try:
            asked = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, "not JSON") from error
        if not isinstance(asked, dict):
            raise _Refused(HTTPStatus.BAD_REQUEST, "not a JSON object")
        return json.dumps(actions[name](asked)).encode(), "application/json"

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        nonce = self.server.nonce
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self' data:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": policy,
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            **({"Connection": "close"} if self.close_connection else {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class LabelServer(ThreadingHTTPServer):
    """Serves one labeling on the loopback address.

    Attributes:
        token: Random part of the address, 256 bits.
        nonce: Of the scripts and styles of the page.
        labeling: What is served.
        page: The page.
    """

    daemon_threads = True

    def __init__(self, labeling: Labeling, *, port: int = 0) -> None:
        """Listen on a port; 0 takes a free one.

        Raises:
            DataError: If the port cannot be used.
        """
        self.token, self.nonce = secrets.token_urlsafe(32), secrets.token_urlsafe(16)
        self.labeling, self.places = labeling, threading.BoundedSemaphore(MAX_REQUESTS)
        source = resources.files("deblora.pipeline.classify").joinpath("label.html")
        self.page = source.read_text(encoding="utf-8").replace("NONCE", self.nonce).encode()
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise DataError(f"port {port} cannot be used ({error.strerror}); leave --port out") from error

    def server_bind(self) -> None:
        """Bind without a look-up of names, which can take long without a network."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, int(self.server_address[1])

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Say nothing of a connection that was cut."""
        log.debug("label: a request ended early", exc_info=True)


@contextmanager
def open_server(root: Path, *, labeler: str = "", port: int = 0) -> Iterator[LabelServer]:
    """Return a server for a queue that no other process labels under the same name.

    Raises:
        ArtifactError: If the folder is no queue, a file is damaged, or another process labels it.
        DataError: If the name of the labeler is none that a file can have.
    """
    queue = read_queue(root)
    path = queue.labels(labeler)
    lock = FileLock(path.with_name(f".{path.stem}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ArtifactError(
            f"{path} is being labeled by another process; end that one, or give another name with --labeler"
        ) from error
    for unfinished in filter(is_leftover, path.parent.glob(f".{path.name}.*.part")):
        unfinished.unlink()  # of a killed server of this labeler
    try:
        with LabelServer(Labeling(queue, labeler), port=port) as server:
            yield server
    finally:
        lock.release()

"""What servers answer, and what caches of hubs hold."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

pytest.importorskip("asteroid.models")
hub = pytest.importorskip("huggingface_hub")
from asteroid.utils import hub_utils  # noqa: E402
from fuzzing import COUNTS, Reader, check  # noqa: E402
from mutations import bytes_changed  # noqa: E402

from sepprune_tp.errors import CheckpointError  # noqa: E402
from sepprune_tp.loading import fetching  # noqa: E402
from sepprune_tp.loading.fetching import fetch  # noqa: E402

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BODY = b"PK\x03\x04 a model"
ODD = (
    b"-1",
    b"0",
    b"99999999999999999999",
    b"1e9",
    b"x",
    b"../../../../tmp/x",
    b"/etc/passwd",
    b"",
)


class Server:
    """Answers whatever it is asked with the same bytes, and hangs up."""

    def __init__(self) -> None:
        self.answer = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                try:
                    connection.settimeout(2)
                    connection.recv(65536)
                    connection.sendall(self.answer)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):
                        pass
                except OSError:
                    continue

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture(autouse=True)
def patched(server: Server, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The server in place of the hub, and little patience."""
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(hub.constants, "ENDPOINT", server.address)
    monkeypatch.setattr(hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(fetching, "TIMEOUT", 1.0)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def answered(body: bytes = BODY, **headers: str) -> bytes:
    told = {"Content-Length": str(len(body)), "ETag": '"abc"', "X-Repo-Commit": COMMIT}
    told |= {"Connection": "close", **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in told.items())
    return f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode() + body


def answer_changed(data: bytes, random: Random) -> bytes:
    """Other numbers, headers and endings."""
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    at = random.randrange(len(lines))
    match random.randrange(6):
        case 0:
            lines[0] = b"HTTP/1.1 " + random.choice(
                (b"404 No", b"500 No", b"302 Found\r\nLocation: file:///etc/passwd", b"999 x", b"x")
            )
        case 1 if at:
            lines[at] = lines[at].partition(b":")[0] + b": " + random.choice(ODD)
        case 2:
            lines.append(random.choice(lines))
        case 3:
            del lines[at]
        case 4:
            lines.append(b"Transfer-Encoding: chunked")
        case _:
            return bytes_changed(data, random)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def fetched(source: str, cache: Path) -> int:
    """Bytes of what was downloaded; the cache holds nothing else that was begun."""
    try:
        return fetch(source).path.stat().st_size
    finally:
        assert not [path for path in cache.rglob("*.tmp") if path.is_file()]


@pytest.mark.parametrize(
    ("source", "count"),
    [
        *(("an address", 100), ("a hub's model", 10)),  # which asks three times for one file
        *(
            pytest.param(name, 1000, marks=pytest.mark.slow)
            for name in ("an address", "a hub's model")
        ),
    ],
)
@pytest.mark.timeout(3000)
def test_answers(
    server: Server, patched: pytest.MonkeyPatch, source: str, count: int, tmp_path: Path
) -> None:
    def read(path: Path) -> int:
        server.answer = path.read_bytes()
        with tempfile.TemporaryDirectory() as cache:
            patched.setattr(hub_utils, "CACHE_DIR", cache)
            patched.setattr(hub.constants, "HF_HUB_CACHE", cache)
            name = f"{server.address}/x/y/z/model" if source == "an address" else "a/net"
            return fetched(name, Path(cache))

    check(Reader(source, [answered()], read, answer_changed, (b"HTTP/1.1 200 ",)), tmp_path, count)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.timeout(1800)
def test_references_in_a_cache(patched: pytest.MonkeyPatch, count: int, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    folder = cache / "models--a--net"
    for part in ("refs", f"snapshots/{COMMIT}"):
        (folder / part).mkdir(parents=True)
    (folder / "snapshots" / COMMIT / "model.safetensors").write_bytes(BODY)
    patched.setattr(hub_utils, "CACHE_DIR", str(cache))
    patched.setattr(hub.constants, "HF_HUB_CACHE", str(cache))
    patched.setattr(hub.constants, "HF_HUB_OFFLINE", True)

    def read(path: Path) -> int:
        (folder / "refs" / "main").write_bytes(path.read_bytes())
        return fetched("a/net", cache)

    (tmp_path / "read").mkdir()
    odd = (*ODD, b"..", b"\0", b"\xff\xfe", b"a" * 5000)
    reader = Reader(
        "reference in a hub's cache",
        [COMMIT.encode()],
        read,
        lambda data, random: random.choice(odd),
        (b"0123",),
    )
    check(reader, tmp_path / "read", count)


@pytest.mark.parametrize("name", ["ETag", "X_Repo_Commit", "X_Linked_ETag"])
@pytest.mark.parametrize("value", ["../../../../out", "/tmp/sepprune-out", '"../out"'])
def test_answers_that_lead_out_of_the_cache(
    server: Server, patched: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str
) -> None:
    cache = tmp_path / "a" / "b" / "cache"
    cache.mkdir(parents=True)
    patched.setattr(hub_utils, "CACHE_DIR", str(cache))
    patched.setattr(hub.constants, "HF_HUB_CACHE", str(cache))
    server.answer = answered(**{name: value})
    with pytest.raises(CheckpointError):
        fetch("a/net")
    files = [path for path in tmp_path.rglob("*") if path.is_file() and cache not in path.parents]
    assert not files and not Path("/tmp/sepprune-out").exists()


def test_an_answer_without_end(server: Server, patched: pytest.MonkeyPatch, tmp_path: Path) -> None:
    patched.setattr(hub_utils, "CACHE_DIR", str(tmp_path))
    patched.setattr(fetching, "LARGEST", 1 << 20)
    server.answer = b"HTTP/1.1 200 OK\r\n\r\n" + bytes(1 << 22)
    with pytest.raises(CheckpointError, match="larger than 1048576 bytes"):
        fetch(f"{server.address}/x/y/z/model")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]

"""One door to files: found without network, verified always, never half-written."""

import hashlib
import http.server
import threading
from pathlib import Path

import pytest

from titans_mini.data import KNOWN, fetch
from titans_mini.data.fetch import Known

BODY = bytes(range(256)) * 1000
SHA = hashlib.sha256(BODY).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    requests: list = []

    def do_GET(self):
        Handler.requests.append((self.path, self.headers["User-Agent"]))
        if self.path == "/gone.bin":
            self.send_error(404)
            return
        self.send_response(200)
        if self.path != "/endless.bin":
            self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY[:1000] if self.path == "/short.bin" else BODY)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("TITANS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TITANS_DATA", raising=False)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Handler, "requests", [])
    return tmp_path


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


def test_download_verify_and_keep(server, folders):
    path = fetch(f"{server}/a.bin", SHA, progress=False)
    assert path == folders / "cache" / "a.bin" and path.read_bytes() == BODY
    assert fetch(f"{server}/a.bin", SHA.upper(), progress=False) == path
    assert len(Handler.requests) == 1, "the second time it is found"
    assert Handler.requests[0][1].startswith("titans-mini")
    assert left_over(folders) == ["a.bin"]


def test_a_body_without_a_length_works(server):
    assert fetch(f"{server}/endless.bin", SHA, progress=False).read_bytes() == BODY


def test_the_folder_named_by_titans_data_comes_first(server, folders, monkeypatch):
    monkeypatch.setenv("TITANS_DATA", str(folders / "mine"))
    (folders / "mine").mkdir()
    (folders / "mine" / "a.bin").write_bytes(BODY)
    assert fetch(f"{server}/a.bin", SHA) == folders / "mine" / "a.bin"
    assert not Handler.requests and not (folders / "cache").exists()


@pytest.mark.parametrize("where", ["mine", "cache"])
def test_a_changed_copy_is_refused_and_left_alone(server, folders, monkeypatch, where):
    monkeypatch.setenv("TITANS_DATA", str(folders / "mine"))
    (folders / where).mkdir()
    (folders / where / "a.bin").write_bytes(BODY[:-1])
    with pytest.raises(ValueError, match=rf"got sha256 .*255999 bytes.*expected {SHA[:12]}.*a\.bin was changed"):
        fetch(f"{server}/a.bin", SHA)
    assert not Handler.requests and left_over(folders) == ["a.bin"]


@pytest.mark.parametrize(
    "name, sha256, error, words",
    [
        ("short.bin", SHA, ConnectionError, "got 1000 bytes .*expected 256000: the connection broke"),
        ("a.bin", "0" * 64, ValueError, "expected 000000000000.*now serves other bytes"),
        ("gone.bin", SHA, ConnectionError, "got HTTP 404"),
    ],
)
def test_a_bad_download_leaves_nothing(server, folders, name, sha256, error, words):
    with pytest.raises(error, match=words):
        fetch(f"{server}/{name}", sha256, progress=False)
    assert left_over(folders) == []


def test_offline_says_what_to_do(folders):
    with pytest.raises(ConnectionError, match="is this machine offline.*TITANS_DATA"):
        fetch("http://127.0.0.1:9/a.bin", SHA, progress=False, timeout=2)
    assert left_over(folders) == []


def test_progress_is_shown_on_request(server, capsys):
    fetch(f"{server}/a.bin", SHA)
    assert "a.bin" in capsys.readouterr().err


def test_names_are_known_and_addresses_need_a_digest(server):
    with pytest.raises(KeyError, match="got 'shakespear', expected an address or one of tinyshakespeare"):
        fetch("shakespear")
    with pytest.raises(ValueError, match="got no sha256"):
        fetch(f"{server}/a.bin")


@pytest.mark.parametrize("path", ["../a", "/etc/a", ""])
def test_nothing_is_written_outside_the_cache(server, folders, path):
    with pytest.raises(ValueError, match="expected a file name inside the cache"):
        fetch(f"{server}/", SHA, path=path or None)
    assert left_over(folders) == []


def test_a_known_name_is_found_by_its_path(server, folders, monkeypatch):
    known = Known(f"{server}/a.bin", SHA, "text/story.txt", "none")
    monkeypatch.setitem(KNOWN, "story", known)
    assert fetch("story", progress=False) == folders / "cache" / "text" / "story.txt"
    monkeypatch.setenv("TITANS_DATA", str(folders / "cache"))
    assert fetch("story").read_bytes() == BODY
    assert len(Handler.requests) == 1


@pytest.mark.parametrize("known", KNOWN.values(), ids=KNOWN.keys())
def test_the_registry_is_well_formed(known):
    assert known.url.startswith("https://") and known.licence
    assert len(known.sha256) == 64 and int(known.sha256, 16)
    assert not Path(known.path).is_absolute() and len({k.path for k in KNOWN.values()}) == len(KNOWN)

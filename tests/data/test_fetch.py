"""One door to files: found without network, verified always, never half-written."""

import errno
import hashlib
import http.server
import io
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest

from titans_mini.data import KNOWN, fetch
from titans_mini.data.fetch import Known

BODY = bytes(range(256)) * 1000
SHA = hashlib.sha256(BODY).hexdigest()


def archive(**members):
    """Make a .tar.gz in memory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"tasks/{name}.txt")
            info.size, info.type = len(content), tarfile.DIRTYPE if name == "folder" else tarfile.REGTYPE
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


GOOD = archive(other=b"x" * 5000, wanted=BODY, folder=b"")
ARCHIVES = {
    "/good.tar.gz": GOOD,
    "/cut.tar.gz": GOOD[: len(GOOD) // 2],
    "/tampered.tar.gz": archive(wanted=BODY[:-1] + b"x"),
    "/empty.tar.gz": archive(other=b"x"),
    "/folder.tar.gz": archive(other=b"x", folder=b""),
    "/page.tar.gz": b"<html>Sign in</html>",
}


class Handler(http.server.BaseHTTPRequestHandler):
    requests: list = []
    release = threading.Event()

    def do_GET(self):
        Handler.requests.append((self.path, self.headers["User-Agent"]))
        if self.path == "/gone.bin":
            self.send_error(404)
            return
        self.send_response(200)
        if self.path in ARCHIVES:
            self.end_headers()
            self.wfile.write(ARCHIVES[self.path])
            return
        if self.path == "/chunked.bin":  # promises 0xFF bytes more and hangs up
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"3e8\r\n" + BODY[:1000] + b"\r\nff\r\n")
            return
        if self.path == "/stalled.bin":
            self.send_header("Content-Length", str(len(BODY)))
            self.end_headers()
            self.wfile.write(BODY[:200_000])
            self.wfile.flush()
            Handler.release.wait(60)
            return
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
        Handler.release.set()
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


def test_a_body_that_breaks_off_in_the_middle_of_a_chunk(server, folders):
    with pytest.raises(ConnectionError, match="it broke off; try again"):
        fetch(f"{server}/chunked.bin", SHA, progress=False)
    assert left_over(folders) == []


def test_a_server_that_falls_silent(server, folders):
    with pytest.raises(ConnectionError, match="timed out"):
        fetch(f"{server}/stalled.bin", SHA, progress=False, timeout=0.5)
    assert left_over(folders) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device")])
def test_an_interrupted_download_leaves_nothing_and_says_the_truth(server, folders, monkeypatch, error):
    def stop(self, n=1):
        raise error

    monkeypatch.setattr("tqdm.tqdm.update", stop)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else OSError) as caught:
        fetch(f"{server}/a.bin", SHA, progress=False)
    assert not isinstance(caught.value, ConnectionError), "a full disk is not a broken connection"
    assert left_over(folders) == []


def test_a_killed_download_leaves_no_file_that_looks_whole(server, folders):
    line = f"from titans_mini.data import fetch; fetch('{server}/stalled.bin', '{SHA}', path='a.bin', progress=False)"
    process = subprocess.Popen([sys.executable, "-c", line])
    deadline = time.monotonic() + 60
    while not any(p.stat().st_size for p in (folders / "cache").rglob(".*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folders / "cache" / "a.bin").exists()
    assert fetch(f"{server}/a.bin", SHA, path="a.bin", progress=False).read_bytes() == BODY


def known_inside(monkeypatch, url, member="tasks/wanted.txt"):
    monkeypatch.setitem(KNOWN, "inside", Known(url, SHA, "text/wanted.txt", "none", member))


def test_a_file_inside_an_archive(server, folders, monkeypatch):
    known_inside(monkeypatch, f"{server}/good.tar.gz")
    assert fetch("inside", progress=False) == folders / "cache" / "text" / "wanted.txt"
    assert fetch("inside", progress=False).read_bytes() == BODY
    assert len(Handler.requests) == 1 and left_over(folders) == ["wanted.txt"]


@pytest.mark.parametrize(
    "name, words",
    [
        ("cut", "got no tasks/wanted.txt in .*cut.tar.gz"),
        ("tampered", "got sha256 .*256000 bytes.*now serves other bytes"),
        ("empty", "got no tasks/wanted.txt in .*empty.tar.gz .*expected it there"),
        ("page", "got no tasks/wanted.txt in .*page.tar.gz .*the archive was changed"),
    ],
)
def test_a_bad_archive_leaves_nothing(server, folders, monkeypatch, name, words):
    known_inside(monkeypatch, f"{server}/{name}.tar.gz")
    with pytest.raises(ValueError, match=words):
        fetch("inside", progress=False)
    assert left_over(folders) == []


@pytest.mark.parametrize("place", range(12, len(GOOD), len(GOOD) // 12))
def test_an_archive_with_one_wrong_byte_leaves_nothing(server, folders, monkeypatch, place):
    damaged = bytearray(GOOD)
    damaged[place] ^= 0x55
    monkeypatch.setitem(ARCHIVES, "/damaged.tar.gz", bytes(damaged))
    known_inside(monkeypatch, f"{server}/damaged.tar.gz")
    try:
        path = fetch("inside", progress=False)
    except ValueError as error:
        assert "got no tasks/wanted.txt in" in str(error) or "got sha256" in str(error)
        assert left_over(folders) == []
    else:
        assert path.read_bytes() == BODY, "the byte was outside of what was asked for"


def test_a_folder_inside_an_archive_is_no_file(server, folders, monkeypatch):
    known_inside(monkeypatch, f"{server}/folder.tar.gz", "tasks/folder.txt")
    with pytest.raises(ValueError, match="it is not a file"):
        fetch("inside", progress=False)
    assert left_over(folders) == []


def test_a_copy_of_an_archives_file_needs_no_archive(server, folders, monkeypatch):
    known_inside(monkeypatch, f"{server}/gone.bin")
    monkeypatch.setenv("TITANS_DATA", str(folders / "mine"))
    (folders / "mine" / "text").mkdir(parents=True)
    (folders / "mine" / "text" / "wanted.txt").write_bytes(BODY)
    assert fetch("inside").read_bytes() == BODY and not Handler.requests


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

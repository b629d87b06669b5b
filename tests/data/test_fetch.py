"""One door to files: found without network, verified always, never half-written."""

import errno
import hashlib
import http.server
import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from titans_mini.data import KNOWN, fetch
from titans_mini.data.fetch import Known, _Redirects

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
        if self.path.startswith("/to?"):
            self.send_response(302)
            self.send_header("Location", self.path[4:])
            self.end_headers()
            return
        self.send_response(200)
        if self.path == "/drip.bin":
            self.send_header("Content-Length", str(len(BODY)))
            self.end_headers()
            for byte in BODY[:200]:
                self.wfile.write(bytes([byte]))
                if Handler.release.wait(0.05):
                    return
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
        server.handle_error = lambda *_: None  # whoever hangs up on it means to
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
    (folders / "mine").mkdir()
    (folders / where).mkdir(exist_ok=True)
    (folders / where / "a.bin").write_bytes(BODY[:-1])
    with pytest.raises(ValueError, match=rf"got sha256 .*255999 bytes.*expected {SHA[:12]}.*a\.bin was changed"):
        fetch(f"{server}/a.bin", SHA)
    assert not Handler.requests and left_over(folders) == ["a.bin"]


@pytest.mark.parametrize(
    "name, sha256, error, words",
    [
        ("short.bin", SHA, ConnectionError, "got 1000 bytes .*expected 256000: the connection broke"),
        ("a.bin", "0" * 64, ValueError, "expected 000000000000.*now serves other bytes"),
        ("gone.bin", SHA, ConnectionError, "got HTTP 404 .*it moved or is blocked"),
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


def test_names_are_known():
    with pytest.raises(KeyError, match="got 'shakespear', expected an address or one of tinyshakespeare"):
        fetch("shakespear")


@pytest.mark.parametrize("path", ["../a", "/etc/a", "", ".", "a/../../b"])
@pytest.mark.parametrize("name", ["address", "tinyshakespeare"])
def test_nothing_is_written_outside_the_cache(server, folders, name, path):
    if name == "address" or path:  # a known name has a path of its own
        with pytest.raises(ValueError, match="expected a file name inside the cache, .*cache"):
            fetch(f"{server}/" if name == "address" else name, SHA, path=path or None)
    assert left_over(folders) == [] and not Handler.requests


# -- as a stranger would abuse it -----------------------------------------------------------------------------------


def test_the_first_download_of_an_unknown_digest_is_trusted_and_noted(server, folders):
    path = fetch(f"{server}/a.bin", progress=False)
    note = folders / "cache" / "a.bin.sha256"
    assert path.read_bytes() == BODY and note.read_text() == f"{SHA}  a.bin\n"  # as sha256sum -c reads it
    assert fetch(f"{server}/a.bin") == path and len(Handler.requests) == 1
    path.write_bytes(BODY[:-1])
    with pytest.raises(ValueError, match=r"was changed.*delete it and a\.bin\.sha256 beside it"):
        fetch(f"{server}/a.bin")


def test_later_downloads_are_held_against_the_note(server, folders):
    fetch(f"{server}/a.bin", progress=False).unlink()
    with pytest.raises(ValueError, match="got sha256 .*now serves other bytes"):
        fetch(f"{server}/good.tar.gz", path="a.bin", progress=False)
    assert left_over(folders) == ["a.bin.sha256"]
    (folders / "cache" / "a.bin.sha256").write_text("")
    with pytest.raises(ValueError, match="got .*a.bin.sha256 without a digest"):
        fetch(f"{server}/a.bin", progress=False)


def test_a_copy_of_your_own_without_a_note_is_taken_as_it_is(server, folders, monkeypatch):
    monkeypatch.setenv("TITANS_DATA", str(folders / "mine"))
    (folders / "mine").mkdir()
    (folders / "mine" / "a.bin").write_bytes(b"mine")
    assert fetch(f"{server}/a.bin").read_bytes() == b"mine" and left_over(folders) == ["a.bin"]


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://127.0.0.1/a.bin", "data://a.bin", "HTTPX://a/b"])
def test_only_http_and_https(folders, address):
    with pytest.raises(ValueError, match="expected http:// or https://"):
        fetch(address, SHA)
    assert left_over(folders) == []


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://127.0.0.1/a.bin", "gopher://127.0.0.1/a.bin"])
def test_no_redirect_leads_elsewhere(server, folders, address):
    words = "got a redirect from .* to .*, expected http or https|got HTTP 302 .*Redirection to url .* is not allowed"
    with pytest.raises((ValueError, ConnectionError), match=words):
        fetch(f"{server}/to?{address}", SHA, path="a.bin", progress=False)
    assert left_over(folders) == []


def test_a_redirect_to_http_is_followed_and_never_from_https(server):
    assert fetch(f"{server}/to?{server}/a.bin", SHA, path="a.bin", progress=False).read_bytes() == BODY
    assert fetch(f"{server}/to?/a.bin", SHA, path="b.bin", progress=False).read_bytes() == BODY  # relative
    request = urllib.request.Request("https://example.org/a.bin")
    with pytest.raises(ValueError, match="got a redirect .*to http://example.org/a.bin, expected https: "):
        _Redirects().redirect_request(request, None, 302, "", {}, "http://example.org/a.bin")


def test_an_archive_that_unpacks_to_more_than_the_limit(server, folders, monkeypatch):
    monkeypatch.setitem(ARCHIVES, "/bomb.tar.gz", archive(other=bytes(3_000_000), wanted=BODY))
    assert len(ARCHIVES["/bomb.tar.gz"]) < 50_000
    known_inside(monkeypatch, f"{server}/bomb.tar.gz")
    with pytest.raises(ValueError, match="it unpacks to more than the limit"):
        fetch("inside", limit=1_000_000, progress=False)
    assert left_over(folders) == []
    assert fetch("inside", limit=4_000_000, progress=False).read_bytes() == BODY


def test_a_sparse_file_in_an_archive(server, folders, monkeypatch):
    """A few bytes of archive that name a file of terabytes, all of it zeros that the archive does not hold."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("tasks/wanted.txt")
        info.pax_headers = {"GNU.sparse.map": f"{1 << 40},0", "GNU.sparse.size": str(1 << 40)}
        tar.addfile(info)
    monkeypatch.setitem(ARCHIVES, "/sparse.tar.gz", buffer.getvalue())
    known_inside(monkeypatch, f"{server}/sparse.tar.gz")
    with pytest.raises(ValueError, match="it has 1099511627776 bytes, more than the limit"):
        fetch("inside", progress=False)
    assert left_over(folders) == []


@pytest.mark.parametrize("name", ["a.bin", "endless.bin"])
def test_a_body_longer_than_the_limit(server, folders, name):
    with pytest.raises(ValueError, match="expected 100000 at most: pass limit="):
        fetch(f"{server}/{name}", SHA, limit=100_000, progress=False)
    assert left_over(folders) == []


def test_a_server_that_drips(server, folders):
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=r"timed out: \d+ bytes in"):
        fetch(f"{server}/drip.bin", SHA, progress=False, timeout=0.5)
    assert time.monotonic() - start < 5 and left_over(folders) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("where", ["tqdm.tqdm.update", "pathlib.Path.mkdir", "tarfile.open"])
def test_a_full_disk_or_quota_is_named(server, folders, monkeypatch, number, where):
    def full(*arguments, **options):
        raise OSError(number, "no room")

    known_inside(monkeypatch, f"{server}/good.tar.gz")
    monkeypatch.setattr(where, full)
    with pytest.raises(OSError, match=r"got no place for .*cache/text/wanted\.txt \(the disk or your quota is full\)"):
        fetch("inside", progress=False)
    monkeypatch.undo()
    assert left_over(folders) == []


def test_a_cache_that_cannot_be_written(server, folders):
    (folders / "cache").write_text("a file where a folder should be")
    with pytest.raises(OSError, match=r"got no place for .*cache/a\.bin \(.*let TITANS_CACHE name another folder"):
        fetch(f"{server}/a.bin", SHA, progress=False)


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_others_may_read_what_the_umask_lets_them(server, folders, monkeypatch, mask, mode):
    known_inside(monkeypatch, f"{server}/good.tar.gz")
    before = os.umask(mask)
    try:
        modes = {path.stat().st_mode & 0o777 for path in (fetch("inside", progress=False), fetch(f"{server}/a.bin"))}
    finally:
        os.umask(before)
    assert modes == {mode}


def test_a_tilde_is_home(server, folders, monkeypatch):
    monkeypatch.setenv("HOME", str(folders))
    monkeypatch.setenv("TITANS_CACHE", "~/kept")
    assert fetch(f"{server}/a.bin", SHA, progress=False) == folders / "kept" / "a.bin"
    monkeypatch.setenv("TITANS_DATA", "~/kept")
    monkeypatch.setenv("TITANS_CACHE", "~/other")
    assert fetch(f"{server}/a.bin", SHA, progress=False) == folders / "kept" / "a.bin"


def test_a_folder_of_your_own_that_is_not_there_is_not_passed_over(server, folders, monkeypatch):
    monkeypatch.setenv("TITANS_DATA", "~/no/such/folder")
    with pytest.raises(FileNotFoundError, match="TITANS_DATA: got '~/no/such/folder', expected a folder: mistyped"):
        fetch(f"{server}/a.bin", SHA, progress=False)
    assert not Handler.requests


def test_every_failed_connection_says_where_a_copy_belongs(server, folders):
    for address in (f"{server}/gone.bin", "http://127.0.0.1:9/gone.bin"):
        with pytest.raises(ConnectionError, match=r"Put a copy at .*cache/gone\.bin"):
            fetch(address, SHA, progress=False, timeout=2)


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

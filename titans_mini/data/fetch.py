"""Files that are not shipped: found in your own folder or the cache, or else downloaded; always verified."""

from __future__ import annotations

import errno
import gzip
import hashlib
import http.client
import os
import secrets
import shutil
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tqdm import tqdm

USER_AGENT = "titans-mini/0.1"  # some servers refuse Python's default
BLOCK = 1 << 16
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # Windows knows no quota
LIMIT = 4 << 30  # bytes of a download, and of what an archive unpacks to
SLOWEST = 1000  # bytes per second; whoever sends less, on average, would keep us waiting for ever


class Known(NamedTuple):
    """A file with a known digest.

    Attributes:
        url: address of the download.
        sha256: digest of the file.
        path: path inside the folder named by ``TITANS_DATA``, and inside the cache.
        licence: of the content.
        member: path inside the archive (.tar.gz) at the address; None if the address serves the file itself.
    """

    url: str
    sha256: str
    path: str
    licence: str
    member: str | None = None


_RAW = "https://raw.githubusercontent.com"
_BABI = "https://s3.amazonaws.com/text-datasets/babi_tasks_1-20_v1-2.tar.gz"
_GPT2 = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main"
KNOWN: dict[str, Known] = {
    "tinyshakespeare": Known(
        f"{_RAW}/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        "text/tinyshakespeare.txt",
        "public domain (Shakespeare)",
    ),
    "sherlock": Known(
        f"{_RAW}/GITenberg/The-Adventures-of-Sherlock-Holmes_1661/master/1661.txt",
        "2a0ce5568625a304f54fbb6bfdeeadf527a1437254b5f0e06b5a9e233d4784a2",
        "text/sherlock_holmes_pg1661.txt",
        "public domain in the US (Arthur Conan Doyle)",
    ),
    "the_verdict": Known(
        f"{_RAW}/rasbt/LLMs-from-scratch/main/ch02/01_main-chapter-code/the-verdict.txt",
        "b41e41a68f0398a3154ae69e2e4c0e2694e17fe0d66730536837f1b01935b31f",
        "text/the_verdict.txt",
        "public domain (Edith Wharton, 1908)",
    ),
    "babi_qa1_train": Known(
        _BABI,
        "c55ab2224d096363fef2eec026b783f6b08508cc865f1f9b7ed4bae4f6f2b9a0",
        "babi/qa1_single-supporting-fact_train.en-10k.txt",
        "CC BY 3.0 (Facebook)",
        "tasks_1-20_v1-2/en-10k/qa1_single-supporting-fact_train.txt",
    ),
    "babi_qa1_test": Known(
        _BABI,
        "809e52cc3c57ac66bf5a7268636a24e15ad1552d9b9bdac0eaca1680da9722e9",
        "babi/qa1_single-supporting-fact_test.txt",
        "CC BY 3.0 (Facebook)",
        "tasks_1-20_v1-2/en-10k/qa1_single-supporting-fact_test.txt",
    ),
    "mtdna_human": Known(
        f"{_RAW}/lh3/minimap2/master/test/MT-human.fa",
        "61d555747e94900b594911f556356f5a2b719fe193d44ea13138f7fe017bc63b",
        "dna/MT-human.fa",
        "public sequence; repository MIT",
    ),
    "mtdna_orang": Known(
        f"{_RAW}/lh3/minimap2/master/test/MT-orang.fa",
        "a3c28ab80821b706873f9a0b6983f9c949dd6bf56dd61a9b3e0347aa2a58fe57",
        "dna/MT-orang.fa",
        "public sequence; repository MIT",
    ),
    "lambda": Known(
        f"{_RAW}/BenLangmead/bowtie2/master/example/reference/lambda_virus.fa",
        "0a04f81952deb68c204e8ae67e0573cb97d348f18ab1b527630d57c294028cf5",
        "dna/lambda_virus.fa",
        "public sequence (NCBI NC_001416.1)",
    ),
    "etth1": Known(
        f"{_RAW}/zhouhaoyi/ETDataset/main/ETT-small/ETTh1.csv",
        "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
        "timeseries/ETTh1.csv",
        "CC BY-ND 4.0: verbatim copies only",
    ),
    "gpt2_vocab": Known(
        f"{_GPT2}/vocab.bpe",
        "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
        "tokenizer/gpt2.vocab.bpe",
        "Modified MIT (OpenAI)",
    ),
    "gpt2_encoder": Known(
        f"{_GPT2}/encoder.json",
        "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
        "tokenizer/gpt2.encoder.json",
        "Modified MIT (OpenAI)",
    ),
}

# The seventeen novels: repository of GITenberg → its commit, and the sha256 of the book. Their exact bytes stay there,
# while gutenberg.org replaces editions. The licence that comes with them binds the name and the header alone.
_NOVELS = {
    "A-Tale-of-Two-Cities_98": (
        "0f6111bc7237af7375295ec1754c2e57e19f67f1",
        "e4733dca6c496f6b21f38ef270bbdb88a2243a57690494f3ba84fb3fd8708a12",
    ),
    "Adventures-of-Huckleberry-Finn_76": (
        "8494afff3a26f95f37376f7a79a014cf818ccaba",
        "83c8971b86eb16f61c0b74d35ff3a18933677b936cba1b2463f9ec6bd9453249",
    ),
    "David-Copperfield_766": (
        "1cfa9f937da3d37507885e00150ece32fb475da9",
        "c43537db85ec5df721765a9516d951aec99920b0cf1abcf1eb0a790191ccbc11",
    ),
    "Emma_158": (
        "9943f6422b9246e7ad37625d6bd014b035fbfdea",
        "1db38633b6135805b4ca4b874ec5ced5be608ac3c3138cdae6019fc346d633a2",
    ),
    "Great-Expectations_1400": (
        "889db0e100928a957f469bf834c564d04065c8e6",
        "64cd8797f6439d21be03154b8e3e97c4fe8c0df6f032a98871a5554c0621c500",
    ),
    "Jane-Eyre_1260": (
        "d8976a3c05269fb2ecb83d4575d82c6c2abe0012",
        "bc74b04ec70c9283323f5043f3305c4b08e70650a96ca5a9e1c5e5c5b4c0aa9a",
    ),
    "Middlemarch_145": (
        "39add53d31f10ba5cecdcbe8c095f90b25fd4b3f",
        "f499b77eb0e4e34edc3bae6b968e3241c8327384631bd26e8eec76b726915a7d",
    ),
    "Pride-and-Prejudice_1342": (
        "81db45c9c48c592f0b77f01fc59e677ad0a5634e",
        "441e778a4297bfc944dc254810e8ded3134cfb0e36d73eef6bb312b4ffd74d6a",
    ),
    "Sense-and-Sensibility_161": (
        "1cd7ffed1c21536f6ee2fea4d68c96e2c12ce14c",
        "9109bd8aabe8f36d0814bd6f5afad1e278b1369d66c0d3846667f0659e119d27",
    ),
    "The-Hound-of-the-Baskervilles_2852": (
        "bb11a2bd7e3cda991b7f83936e811a0f472c089c",
        "f128d1476b176d1273da92aa0394dc55ad605995a914c83c3464a52f226f3b46",
    ),
    "The-Memoirs-of-Sherlock-Holmes_834": (
        "6a4b3489ac34fb2b01bb5f8e8097134b2e954d5c",
        "ce431578214ff174df0958b0277d9f3fc2c27bd06c6862d51777c2a04a3d752e",
    ),
    "The-Picture-of-Dorian-Gray_174": (
        "2e7a9776d3179fac76db4370fd66231ac0f4c184",
        "0c9a2cbf188ca6534c60381b764ac37bf4594b16971aea5cc8263e83b9ce9a05",
    ),
    "The-Return-of-Sherlock-Holmes_108": (
        "723d6d49bca7b22e3b33e68af4df88ea6c12b459",
        "ae6a89aa626af682045e873a3a6d171c706f6fc5c0a0388d1027788aebe4ab5d",
    ),
    "The-Woman-in-White_583": (
        "f5a0780930ca6a67810bbf58353435eaca1d042c",
        "19007f23f185050fb09ec505260cd14fe0ff7286b11f69f2fd49515da8ff84f2",
    ),
    "Treasure-Island_120": (
        "46f38f7b63dbda34415ce29ef5548023a8ba8dda",
        "6c37a18a886b4c12eaf4e5ff301813186616c7ee899c268db94eddd433027da7",
    ),
    "Twenty-Thousand-Leagues-under-the-Sea_164": (
        "835d12c2b90c35cf64428378c63521580c7943d9",
        "e98865878afb5505a9f94b218cc873cf723da51abfeced7ccb762734b19f07ae",
    ),
    "Wuthering-Heights_768": (
        "7f246b8eba2cf744e757f7425c90ad362ecb8a99",
        "2ff1cd2fa12ecff82da679e889ca7645e132e7bcfd55768ea42a955abe12c1e1",
    ),
}
for _repository, (_commit, _sha256) in _NOVELS.items():
    _title, _number = _repository.lower().replace("-", "_").rsplit("_", 1)
    KNOWN[_title] = Known(
        f"{_RAW}/GITenberg/{_repository}/{_commit}/{_number}.txt",
        _sha256,
        f"text/books/{_title}_pg{_number}.txt",
        "public domain in the US; Project Gutenberg License on header and name",
    )


def fetch(
    name_or_url: str,
    sha256: str | None = None,
    *,
    path: str | None = None,
    timeout: float = 30.0,
    limit: int = LIMIT,
    progress: bool = True,
) -> Path:
    """Return the path of a file; download it only if it is not on this machine.

    The file is looked for in the folder named by ``TITANS_DATA``, then in the cache (``TITANS_CACHE``, by default
    ``~/.cache/titans_mini``). A download is written under a temporary name and renamed once it is verified.

    An address whose digest you do not know is trusted the first time: the digest of that download is written beside it,
    as ``<file>.sha256`` in the form that ``sha256sum -c`` reads, and every later use and download is held against it.
    A file that you put there yourself, without such a note, is taken as it is.

    Args:
        name_or_url: a name in `KNOWN`, or an address (http or https).
        sha256: expected digest; for names it is known, for addresses None means: trust the first download.
        path: file name relative to the two folders; by default the last part of the address.
        timeout: seconds without a response before giving up. Later the average has to be 1 kB/s at least.
        limit: most bytes that are downloaded, or unpacked from an archive.
        progress: show a progress bar while downloading.

    Raises:
        KeyError: for an unknown name.
        ValueError: for an address or a path that is not allowed, or a file whose bytes are not the expected ones.
        FileNotFoundError: when ``TITANS_DATA`` names no folder.
        ConnectionError: when the file is not on this machine and cannot be downloaded.
        OSError: when it cannot be written: a full disk, a quota, a folder of somebody else.
    """
    url, sha256, path, member = _resolve(name_or_url, sha256, path)
    for folder in _folders():
        file = folder / path
        if file.is_file():
            expected = sha256 or _noted(file)
            note = "" if sha256 or not expected else f" and {_note(file).name} beside it"
            if expected:
                _verify(
                    file, expected, f"{file} was changed or not copied completely; delete it{note} to download it again"
                )
            return file
    target = cache() / path
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _download(url, sha256, target, member, timeout, limit, progress)
    except OSError as error:
        if isinstance(error, ConnectionError):
            raise
        why = "the disk or your quota is full" if error.errno in FULL else error.strerror or str(error)
        raise OSError(
            error.errno,
            f"got no place for {target} ({why}), expected to write it there: make room, or let TITANS_CACHE "
            "name another folder",
        ) from error
    return target


def cache() -> Path:
    """Return the folder of downloads: ``TITANS_CACHE``, or ``~/.cache/titans_mini``."""
    return Path(os.environ.get("TITANS_CACHE") or "~/.cache/titans_mini").expanduser()


def own() -> Path | None:
    """Return your own folder of data, ``TITANS_DATA``; None if you named none.

    Raises:
        FileNotFoundError: when it is not there; to pass over it in silence would download what you believe you have.
    """
    name = os.environ.get("TITANS_DATA")
    if not name:
        return None
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"TITANS_DATA: got {name!r}, expected a folder: mistyped or not mounted? Else unset it")
    return folder


def _folders() -> list[Path]:
    return [folder for folder in (own(), cache()) if folder]


def _resolve(name_or_url: str, sha256: str | None, path: str | None) -> tuple[str, str | None, str, str | None]:
    member = None
    if name_or_url in KNOWN:
        known = KNOWN[name_or_url]
        url, sha256, path, member = known.url, sha256 or known.sha256, path or known.path, known.member
    elif "://" in name_or_url:
        url, path = name_or_url, path or Path(urllib.parse.urlparse(name_or_url).path).name
    else:
        raise KeyError(f"got {name_or_url!r}, expected an address or one of {', '.join(KNOWN)}")
    if urllib.parse.urlparse(url).scheme not in ("http", "https"):
        raise ValueError(f"got the address {url!r}, expected http:// or https://: a local file needs no fetch")
    if not Path(path).name or Path(path).is_absolute() or ".." in Path(path).parts:
        raise ValueError(f"got the path {path!r}, expected a file name inside the cache, {cache()}: pass path='name'")
    return url, sha256, path, member


def _note(file: Path) -> Path:
    return file.with_name(file.name + ".sha256")


def _noted(file: Path) -> str | None:
    """Return the digest noted at the first download; None if there is no note."""
    note = _note(file)
    if not note.is_file():
        return None
    digest = note.read_text(encoding="utf-8", errors="replace").partition(" ")[0]
    if len(digest) != 64:
        raise ValueError(f"got {note} without a digest, expected 64 hexadecimal digits: delete it to trust {file} anew")
    return digest


def _download(
    url: str, sha256: str | None, target: Path, member: str | None, timeout: float, limit: int, progress: bool
) -> None:
    """Write the body to a temporary file, verify it, and only then rename it to `target`."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    note = _note(temporary)
    try:
        with open(temporary, "xb") as file:  # not mkstemp: others who share the cache have to read it
            got, announced = _stream(url, file, target, timeout, limit, progress)
        if announced is not None and got != announced:
            raise ConnectionError(f"got {got} bytes from {url}, expected {announced}: the connection broke; try again")
        if member is not None:
            _unpack(temporary, member, url, limit)
        expected = sha256 or _noted(target)
        if expected:
            _verify(temporary, expected, f"{url} now serves other bytes, or a proxy answered in its place")
        else:  # before the file itself: so no interruption leaves a file of ours without its digest
            note.write_text(f"{sha256_of(temporary)}  {target.name}\n", encoding="utf-8")
            os.replace(note, _note(target))
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
        note.unlink(missing_ok=True)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects to http and https only, and never from https back to http."""

    def redirect_request(self, request, file, code, message, headers, to):
        """Return the next request, or raise ValueError."""
        allowed = ("https",) if request.type == "https" else ("http", "https")
        if urllib.parse.urlparse(to).scheme not in allowed:
            raise ValueError(
                f"got a redirect from {request.full_url} to {to}, expected {' or '.join(allowed)}: the server, or a "
                "proxy between, is not to be trusted"
            )
        return super().redirect_request(request, file, code, message, headers, to)


def _stream(
    url: str, file: BinaryIO, target: Path, timeout: float, limit: int, progress: bool
) -> tuple[int, int | None]:
    """Write the body to `file`; return the numbers of bytes received and announced."""
    request = urllib.request.Request(url, headers={"User-Agent": USER_AGENT})
    try:
        with urllib.request.build_opener(_Redirects).open(request, timeout=timeout) as response:
            return _copy(response, file, url, timeout, limit, progress)
    except urllib.error.HTTPError as error:
        raise ConnectionError(
            f"got HTTP {error.code} ({error.reason}) from {url}, expected the file: it moved or is blocked. Put a copy "
            f"at {target}"
        ) from error
    except http.client.HTTPException as error:
        raise ConnectionError(f"got a part of {url} ({error}), expected all: it broke off; try again") from error
    except OSError as error:
        if error.errno in FULL:
            raise  # has nothing to do with the connection
        raise ConnectionError(
            f"got no answer from {url} ({error}), expected the file: is this machine offline? Put a copy at {target}, "
            "or into the folder named by TITANS_DATA"
        ) from error


def _copy(
    response: http.client.HTTPResponse, file: BinaryIO, url: str, timeout: float, limit: int, progress: bool
) -> tuple[int, int | None]:
    announced, got, start = response.length, 0, time.monotonic()
    name = Path(urllib.parse.urlparse(url).path).name
    with tqdm(total=announced, unit="B", unit_scale=True, desc=name, disable=not progress) as bar:
        while block := response.read1(BLOCK):  # read() would wait for a whole block, however slowly it drips
            got += len(block)
            seconds = time.monotonic() - start
            if max(got, announced or 0) > limit:
                raise ValueError(
                    f"got {max(got, announced or 0)} bytes or more from {url}, expected {limit} at most: pass limit="
                )
            if seconds > timeout and got < SLOWEST * seconds:
                raise TimeoutError(f"timed out: {got} bytes in {seconds:.0f} s")
            file.write(block)
            bar.update(len(block))
    return got, announced


class _Bounded:
    """A file whose end is an error: an archive of a few bytes may unpack to terabytes."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self.file, self.left = file, limit

    def read(self, size: int) -> bytes:
        """Read at most `size` bytes."""
        data = self.file.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise tarfile.TarError("it unpacks to more than the limit: pass limit=")
        return data


def _unpack(archive: Path, member: str, url: str, limit: int) -> None:
    """Replace an archive by one of its files."""
    content = archive.with_name(archive.name + ".member")
    try:
        with gzip.open(archive) as packed, tarfile.open(fileobj=_Bounded(packed, limit), mode="r|") as tar:
            info = next((info for info in tar if info.name == member), None)
            if info is None or not info.isfile():
                raise KeyError("it is not a file" if info else "it is not in there")
            if info.size > limit:  # of a sparse file, whose zeros are not in the archive
                raise tarfile.TarError(f"it has {info.size} bytes, more than the limit: pass limit=")
            with open(content, "xb") as file:
                shutil.copyfileobj(tar.extractfile(info), file)
        os.replace(content, archive)
    except (tarfile.TarError, KeyError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"got no {member} in {url} ({error}), expected it there: the archive was changed") from error
    finally:
        content.unlink(missing_ok=True)


def sha256_of(file: Path) -> str:
    """Return the digest of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _verify(file: Path, sha256: str, cause: str) -> None:
    digest = sha256_of(file)
    if digest != sha256.lower():
        size = file.stat().st_size
        raise ValueError(f"got sha256 {digest[:12]}… ({size} bytes), expected {sha256[:12]}…: {cause}")

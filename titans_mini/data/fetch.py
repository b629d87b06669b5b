"""Files that are not shipped: found in your own folder or the cache, or else downloaded; always verified."""

from __future__ import annotations

import errno
import gzip
import hashlib
import http.client
import os
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tqdm import tqdm

USER_AGENT = "titans-mini/0.1"  # some servers refuse Python's default
BLOCK = 1 << 16


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


def fetch(
    name_or_url: str,
    sha256: str | None = None,
    *,
    path: str | None = None,
    timeout: float = 30.0,
    progress: bool = True,
) -> Path:
    """Return the path of a file; download it only if it is not on this machine.

    The file is looked for in the folder named by ``TITANS_DATA``, then in the cache (``TITANS_CACHE``, by default
    ``~/.cache/titans_mini``). A download is written under a temporary name and renamed once it is verified.

    Args:
        name_or_url: a name in `KNOWN`, or an address.
        sha256: expected digest; optional for names, required for addresses.
        path: file name relative to the two folders; by default the last part of the address.
        timeout: seconds without a response before giving up.
        progress: show a progress bar while downloading.

    Raises:
        KeyError: for an unknown name.
        ValueError: for an address without a sha256, or a file whose bytes are not the expected ones.
        ConnectionError: when the file is not on this machine and cannot be downloaded.
    """
    url, sha256, path, member = _resolve(name_or_url, sha256, path)
    for folder in _folders():
        file = folder / path
        if file.is_file():
            _verify(file, sha256, f"{file} was changed or not copied completely; delete it to download it again")
            return file
    target = cache() / path
    target.parent.mkdir(parents=True, exist_ok=True)
    _download(url, sha256, target, member, timeout, progress)
    return target


def cache() -> Path:
    """Return the folder of downloads: ``TITANS_CACHE``, or ``~/.cache/titans_mini``."""
    return Path(os.environ.get("TITANS_CACHE") or Path.home() / ".cache" / "titans_mini")


def _folders() -> list[Path]:
    data = os.environ.get("TITANS_DATA")
    return [Path(data), cache()] if data else [cache()]


def _resolve(name_or_url: str, sha256: str | None, path: str | None) -> tuple[str, str, str, str | None]:
    if name_or_url in KNOWN:
        known = KNOWN[name_or_url]
        return known.url, sha256 or known.sha256, path or known.path, known.member
    if "://" not in name_or_url:
        raise KeyError(f"got {name_or_url!r}, expected an address or one of {', '.join(KNOWN)}")
    if sha256 is None:
        raise ValueError(f"got no sha256 for {name_or_url}, expected one: without it nobody can tell a changed file")
    path = path or Path(urllib.parse.urlparse(name_or_url).path).name
    if not path or Path(path).is_absolute() or ".." in Path(path).parts:
        raise ValueError(f"got the path {path!r}, expected a file name inside the cache: pass path='name'")
    return name_or_url, sha256, path, None


def _download(url: str, sha256: str, target: Path, member: str | None, timeout: float, progress: bool) -> None:
    """Write the body to a temporary file, verify it, and only then rename it to `target`."""
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            got, announced = _stream(url, file, timeout, progress)
        if announced is not None and got != announced:
            raise ConnectionError(f"got {got} bytes from {url}, expected {announced}: the connection broke; try again")
        if member is not None:
            _unpack(Path(temporary), member, url)
        _verify(Path(temporary), sha256, f"{url} now serves other bytes, or a proxy answered in its place")
        os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _stream(url: str, file: BinaryIO, timeout: float, progress: bool) -> tuple[int, int | None]:
    """Write the body to `file`; return the numbers of bytes received and announced."""
    request = urllib.request.Request(url, headers={"User-Agent": USER_AGENT})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return _copy(response, file, url, progress)
    except urllib.error.HTTPError as error:
        raise ConnectionError(f"got HTTP {error.code} from {url}, expected the file: it moved or is blocked") from error
    except http.client.HTTPException as error:
        raise ConnectionError(f"got a part of {url} ({error}), expected all: it broke off; try again") from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise  # the disk is full, which has nothing to do with the connection
        raise ConnectionError(
            f"got no answer from {url} ({error}), expected the file: is this machine offline? Put a copy into "
            "the folder named by TITANS_DATA instead"
        ) from error


def _copy(response: http.client.HTTPResponse, file: BinaryIO, url: str, progress: bool) -> tuple[int, int | None]:
    length = response.headers.get("Content-Length")
    announced, got = int(length) if length else None, 0
    name = Path(urllib.parse.urlparse(url).path).name
    with tqdm(total=announced, unit="B", unit_scale=True, desc=name, disable=not progress) as bar:
        while block := response.read(BLOCK):
            file.write(block)
            got += len(block)
            bar.update(len(block))
    return got, announced


def _unpack(archive: Path, member: str, url: str) -> None:
    """Replace an archive by one of its files."""
    try:
        with tarfile.open(archive, "r:gz") as tar, tempfile.TemporaryFile() as content:
            if not tar.getmember(member).isfile():
                raise KeyError("it is not a file")
            shutil.copyfileobj(tar.extractfile(member), content)
            content.seek(0)
            with open(archive, "wb") as file:
                shutil.copyfileobj(content, file)
    except (tarfile.TarError, KeyError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"got no {member} in {url} ({error}), expected it there: the archive was changed") from error


def _verify(file: Path, sha256: str, cause: str) -> None:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != sha256.lower():
        size = file.stat().st_size
        raise ValueError(f"got sha256 {digest.hexdigest()[:12]}… ({size} bytes), expected {sha256[:12]}…: {cause}")

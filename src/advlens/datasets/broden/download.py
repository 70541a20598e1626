"""A large download that goes on where it broke off."""

import hashlib
import http.client
import os
import time
import urllib.error
from collections.abc import Collection, Sequence
from pathlib import Path

from advlens.errors import DataError, RunError
from advlens.files import SLOWEST, TIMEOUT, opened


def fetch_continued(urls: Sequence[str], path: Path, *, md5: str | None, most: int) -> Path:
    """Download a file, going on where an earlier call broke off; one already there is kept.

    What has come lies at `path` with the suffix `.part` until it is whole. No two processes may
    fetch the same path at a time.

    Args:
        urls: addresses of the file, tried in turn. Those of plain http, and redirects to such, are
            taken only where the MD5 is known.
        path: the file to write.
        md5: of the file, 32 hex digits; None where none is known, and what comes is taken.
        most: bytes; an answer with more is not read on.

    Raises:
        DataError: no address can be read to its end, when what came is kept, or it holds another
            file, when it is not.
        RunError: the file cannot be written.
    """
    if path.is_file():
        return path
    part = path.with_name(f"{path.name}.part")
    failures = []
    for url in urls:
        try:
            _continue(url, part, ["https"] if md5 is None else ["https", "http"], most)
            break
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()  # it holds the connection
            failures.append(f"cannot fetch {url}: {error or type(error).__name__}")
    else:
        raise DataError(
            f"{'; '.join(failures)}; the same command continues, or give the file with --archive"
        )
    if md5 is not None and (digest := md5_of(part)) != md5:
        part.unlink()
        raise DataError(
            f"cannot fetch {url}: its MD5 is {digest}, not {md5}; try again, or get the file"
            " elsewhere and give it with --archive"
        )
    os.replace(part, path)
    return path


def md5_of(path: Path) -> str:
    """MD5 of a file's bytes, in hex digits: no second file with a given one has been made yet."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _continue(url: str, part: Path, schemes: Collection[str], most: int) -> None:
    """Add to `part` what it lacks of the file at an address.

    That both are of the same file is for the hash to tell, or for the checksums in an archive.
    """
    had = part.stat().st_size if part.is_file() else 0
    try:
        response = opened(url, schemes, {"Range": f"bytes={had}-"} if had else {})
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: there is nothing from this byte on
            raise
        if error.headers.get("Content-Range") == f"bytes */{had}":
            error.close()
            return  # an earlier call ended just before its last step
        part.unlink()
        raise ValueError("it has less than what came before, which is removed") from error
    with response:
        span = response.headers.get("Content-Range", "")
        if response.status == 206 and not span.startswith(f"bytes {had}-"):
            raise ValueError(f"asked for the bytes from {had}, it sends {span or 'others'}")
        if response.status != 206:
            had = 0  # it cannot continue, and sends all
        length = response.headers.get("Content-Length")
        total = None if length is None else had + int(length)
        deadline = time.monotonic() + TIMEOUT + (total or most) / SLOWEST
        try:
            file = open(part, "ab" if had else "wb")  # noqa: SIM115 (closed below)
        except OSError as error:
            raise _cannot_write(part, error) from error
        with file:
            while block := response.read1(1 << 20):
                had += len(block)
                if had > most:
                    raise ValueError(f"it has more than {most} bytes")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"only {had} bytes came in time")
                try:
                    file.write(block)
                    file.flush()
                except OSError as error:
                    raise _cannot_write(part, error) from error
    if total is not None and had != total:
        raise ValueError(f"it broke off after {had} of {total} bytes")


def _cannot_write(path: Path, error: OSError) -> RunError:
    return RunError(f"cannot write {path}: {error.strerror}; free space or choose another folder")

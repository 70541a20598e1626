"""A large download that resumes where it broke off."""

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
    """Download a file, resuming where an earlier call broke off; an existing file is kept.

    Until it is complete, the download lies at `path` with the suffix `.part`. Two processes must
    not fetch the same path at the same time.

    Args:
        urls: addresses of the file, tried in turn. Plain http, and redirects to it, are accepted
            only if the MD5 is known.
        path: the file to write.
        md5: the file's MD5, 32 hex digits; None if it is unknown, and any content is accepted.
        most: maximum number of bytes to read.

    Raises:
        DataError: no address can be read to its end, and what came is kept; or the file is another
            one, and what came is removed.
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
                error.close()  # it holds the connection open
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
    """MD5 of a file's bytes, in hex digits; no second preimage of an MD5 is known."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _continue(url: str, part: Path, schemes: Collection[str], most: int) -> None:
    """Append what `part` lacks of the file at an address.

    The hash, or the checksums in an archive, must tell whether both belong to the same file.
    """
    had = part.stat().st_size if part.is_file() else 0
    try:
        response = opened(url, schemes, {"Range": f"bytes={had}-"} if had else {})
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: nothing starts at this byte
            raise
        if error.headers.get("Content-Range") == f"bytes */{had}":
            error.close()
            return  # an earlier call was interrupted just before its last step
        part.unlink()
        raise ValueError("it has less than what came before, which is removed") from error
    with response:
        span = response.headers.get("Content-Range", "")
        if response.status == 206 and not span.startswith(f"bytes {had}-"):
            raise ValueError(f"asked for the bytes from {had}, it sends {span or 'others'}")
        if response.status != 206:
            had = 0  # it cannot resume and sends everything
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

"""Files that are written whole or not at all, hashed, and locked."""

import contextlib
import errno
import fcntl
import glob
import hashlib
import http.client
import os
import socket
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from advlens.errors import DataError, RunError
from advlens.folders import WRITTEN, check_held, held, read_object
from advlens.lockfile import held_by_file, lives

TIMEOUT = 60
"""Seconds without a byte after which a download is given up."""
SLOWEST = 10_000
"""Bytes per second, on average, below which a download is given up."""
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
"""Errors of `flock` where the file system has no locks."""

_PREFIX = ".advlens-"
"""Of the names of temporary files."""


@contextlib.contextmanager
def atomic(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file that appears at `path` only when the block ends without an exception.

    The temporary file lies in the same folder, is flushed to disk, then renamed over `path`. After
    an exception it is removed and the old file stays unchanged; after SIGKILL, the next process
    that holds the folder (see `locked`) removes it. Text mode writes UTF-8.

    Raises:
        RunError: the disk is full or the folder cannot be written (the message names path and
            reason), or a folder that the process holds has been removed meanwhile.
    """
    path = Path(path)
    check_held(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number, temporary = tempfile.mkstemp(dir=path.parent, prefix=_temporary(path))
        encoding, newline = (None, None) if "b" in mode else ("utf-8", "")
        with open(number, mode, encoding=encoding, newline=newline) as file:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)  # to the end of this process, it has an owner
            yield file
            file.flush()
            os.fsync(file.fileno())
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(temporary, 0o666 & ~mask)  # mkstemp makes it private; this follows the umask
            os.replace(temporary, path)
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another folder"
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


def _temporary(path: Path) -> str:
    """The start of the names of a path's temporary files."""
    return f"{_PREFIX}{path.name[:50]}."


def _remove_abandoned(temporary: Iterable[Path]) -> None:
    """Remove the temporary files that no living process locks."""
    for path in temporary:
        with contextlib.suppress(OSError), open(path, "r+b", opener=_without_links) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the lock dies with the process, also after SIGKILL.

    If the file system has no locks, a file serves instead (see `lockfile.held_by_file`). Temporary
    files of `atomic` that a killed process left in a run's folders are removed.

    Raises:
        RunError: another process holds the folder.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # a link there would create a file elsewhere
        file = open(folder / ".lock", "a", opener=_without_links)  # noqa: SIM115 (closed below)
    except OSError as error:
        raise RunError(
            f"cannot use the folder {folder}: {error.strerror}; choose another with --out"
        ) from error
    with file, contextlib.ExitStack() as stack:
        try:
            if not _flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
                stack.enter_context(held_by_file(folder / ".lock.held"))
        except BlockingIOError as error:
            raise RunError(
                f"another advlens process is writing to {folder}; wait for it"
                " or choose another --out"
            ) from error
        with held(folder):
            _remove_abandoned(folder.glob(f"{_PREFIX}*"))
            for name in WRITTEN:
                _remove_abandoned((folder / name).rglob(f"{_PREFIX}*"))
            yield


def is_held(folder: Path) -> bool | None:
    """Whether a process of this machine, or one that a lock file names, holds a folder.

    Nothing is taken, so that no process is refused meanwhile. None where the system does not tell.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        holder = read_object(folder / ".lock.held", 2**12)
        return holder["host"] != socket.gethostname() or lives(int(holder["pid"]))
    try:
        locks = Path("/proc/locks").read_text(encoding="utf-8")
    except OSError:
        return None
    try:
        lock = os.lstat(folder / ".lock")
    except OSError:
        return False
    place = f"{os.major(lock.st_dev):02x}:{os.minor(lock.st_dev):02x}:{lock.st_ino}"
    return place in locks.split()


def _without_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _flock(file: IO[Any], operation: int) -> bool:
    """Lock an open file; False where its file system has no locks.

    Raises:
        BlockingIOError: another process holds the lock, and the operation does not wait.
        RunError: the lock cannot be taken for another reason.
    """
    try:
        fcntl.flock(file, operation)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise RunError(
                f"cannot lock {file.name}: {error.strerror}; choose another folder"
            ) from error
        return False
    return True


def fetch(url: str, path: Path, *, sha256: str, size: int) -> Path:
    """Download a file of known size and SHA-256; a complete file is kept.

    If several processes fetch the same path, one downloads and the others wait for it.

    Args:
        url: an https address; redirects must be https as well.
        path: the file to write.
        sha256: the file's SHA-256, 64 hex digits.
        size: the file's size in bytes; reading stops beyond it.

    Returns:
        `path`.

    Raises:
        DataError: the address cannot be read, or does not hold this file; `path` is unchanged.
        RunError: the file cannot be written.
    """
    path = Path(path)
    if _whole(path, sha256, size):
        return path
    with _turn(path):
        if _whole(path, sha256, size):  # the previous process has fetched it
            return path
        with atomic(path) as file, contextlib.closing(_download(url, path, size)) as blocks:
            digest = hashlib.sha256()
            for block in blocks:
                digest.update(block)
                file.write(block)
            if digest.hexdigest() != sha256:
                raise _no_download(url, path, f"its SHA-256 is {digest.hexdigest()}, not {sha256}")
    return path


def _whole(path: Path, digest: str, size: int) -> bool:
    with contextlib.suppress(OSError):
        return path.is_file() and path.stat().st_size == size and sha256(path) == digest
    return False


def _download(url: str, path: Path, size: int) -> Generator[bytes, None, None]:
    """The bytes of an address, exactly `size` of them."""
    deadline = time.monotonic() + TIMEOUT + size / SLOWEST
    received = 0
    try:
        with opened(url, {"https"}) as response:
            while block := response.read1(min(1 << 20, size - received + 1)):
                received += len(block)
                if received > size:
                    raise _no_download(url, path, f"it has more than {size} bytes")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"only {received} of {size} bytes came in time")
                yield block
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it holds the connection open
        raise _no_download(url, path, str(error) or type(error).__name__) from error
    if received != size:
        raise _no_download(url, path, f"it has {received} bytes, not {size}")


def _no_download(url: str, path: Path, reason: str) -> DataError:
    return DataError(f"cannot fetch {url}: {reason}; try again, or put the file at {path}")


def opened(url: str, schemes: Collection[str], headers: Mapping[str, str] | None = None) -> Any:
    """The response of an address; it and its redirects must use one of the schemes.

    Raises:
        OSError, HTTPException, ValueError: there is no response, or the scheme is another.
    """
    if urllib.parse.urlsplit(url).scheme not in schemes:
        raise ValueError(f"it is not an {' or '.join(schemes)} address")
    request = urllib.request.Request(url, headers=dict(headers or {}))
    return urllib.request.build_opener(_Redirects(schemes)).open(request, timeout=TIMEOUT)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, schemes: Collection[str]) -> None:
        self.schemes = schemes

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: Any,
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if urllib.parse.urlsplit(newurl).scheme not in self.schemes:
            reason = f"it leads to {newurl}, not an {' or '.join(self.schemes)} address"
            raise urllib.error.HTTPError(newurl, code, reason, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextlib.contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Hold a lock beside `path`, waiting for it if needed; the lock file is removed afterwards."""
    lock = path.with_name(f".{path.name}.lock")
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.touch()
        except OSError as error:
            raise RunError(
                f"cannot write {path}: {error.strerror}; choose another folder"
            ) from error
        with open(lock, "a") as file, contextlib.ExitStack() as stack:
            if not _flock(file, fcntl.LOCK_EX):
                stack.enter_context(held_by_file(lock.with_name(f"{lock.name}.held"), wait=True))
            try:
                current = os.path.samestat(os.fstat(file.fileno()), os.stat(lock))
            except FileNotFoundError:
                current = False
            if current:  # else the previous process removed it, and others may hold a new one
                _remove_abandoned(path.parent.glob(f"{glob.escape(_temporary(path))}*"))
                try:
                    yield
                finally:
                    lock.unlink(missing_ok=True)
                return

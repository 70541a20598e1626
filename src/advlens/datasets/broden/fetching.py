"""Broden 1.0 from its public home or a local archive."""

import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from advlens.datasets.broden.data import BrodenData
from advlens.datasets.broden.download import fetch_continued, md5_of
from advlens.errors import DataError, RunError
from advlens.files import locked, sha256

HOME = "netdissect.csail.mit.edu/data"
MD5 = {224: "be13c292eaef3300da03f8d0e48eab1c"}
"""MD5 of the archives, where one has been published."""
MAX_ARCHIVE = 20_000_000_000
"""Maximum number of bytes to download; the archives have about one to six billion."""
MAX_MEMBERS = 2_000_000
MAX_RATIO = 20
"""Largest ratio of unpacked size to archive size: images hardly compress."""
SMALL = 100_000_000
"""Unpacked bytes that any archive may hold."""


def fetch_broden(
    to: Path,
    archive: Path | None = None,
    *,
    resolution: Literal[224, 227, 384] = 224,
    say: Callable[[str], object] = print,
) -> Path:
    """Put Broden 1.0 into `to/broden1_<resolution>`; if it is already complete, do nothing.

    The folder appears once it is complete and checked. The next call resumes an interrupted
    download; the archive is removed at the end. The MD5 of the 224-pixel archive is known and
    checked, so plain http is the fallback for https. No MD5 has been published for the others: they
    come by https only, and `say` reports their SHA-256.

    Args:
        to: the parent folder of the data set.
        archive: a local copy of `broden1_<resolution>.zip` instead of a download.
        resolution: size of the images, in pixels; the label maps have half of it.
        say: called with each line for the user.

    Returns:
        The folder of the data set.

    Raises:
        DataError: the archive cannot be fetched, or the archive or folder does not hold Broden.
        RunError: the folder is in use by another process, or cannot be written.
    """
    name = f"broden1_{resolution}"
    folder = to / name
    if folder.exists():
        BrodenData(folder)
        return folder
    with locked(to):
        md5 = MD5.get(resolution)
        path = archive
        if path is None:
            path = to / f"{name}.zip"
            urls = [f"https://{HOME}/{path.name}"]
            if md5 is not None:
                urls.append(f"http://{HOME}/{path.name}")
            say(f"fetching {urls[0]}; after an interruption the same command continues")
            fetch_continued(urls, path, md5=md5, most=MAX_ARCHIVE)
        else:
            _check(path, md5)
        if md5 is None:
            say(f"no hash of {name}.zip has been published; its SHA-256 is {sha256(path)}")
        try:
            unpack(path, folder, name)
        except DataError:
            if archive is None and md5 is None:
                path.unlink()  # otherwise a damaged download would stay
            raise
        if archive is None:
            path.unlink()
    return folder


def _check(archive: Path, md5: str | None) -> None:
    try:
        digest = md5_of(archive)
    except OSError as error:
        raise DataError(f"cannot read the archive {archive}: {error.strerror}") from error
    if md5 is not None and digest != md5:
        raise DataError(
            f"the MD5 of {archive} is {digest}, not {md5}, so it is not the archive of Broden; get"
            " it again, or unpack it yourself and give its folder as broden:DIR"
        )


def unpack(archive: Path, folder: Path, name: str) -> None:
    """Extract what an archive holds below `name/` to `folder`, which appears checked and complete.

    `extractall` would write whatever the archive holds, of any size.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # left by a killed process
        with zipfile.ZipFile(archive) as content:
            for member in _members(archive, content, f"{name}/"):
                path = partial / member.filename.removeprefix(f"{name}/")
                with content.open(member) as source:
                    _write(path, source.read)
        BrodenData(partial)
        os.rename(partial, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise DataError(f"cannot read the archive {archive}: {error}; get it again") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(path: Path, read: Callable[[int], bytes]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "xb")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}; choose another folder") from error
    with file:
        while block := read(1 << 20):
            try:
                file.write(block)
                file.flush()
            except OSError as error:
                raise RunError(
                    f"cannot write {path}: {error.strerror}; free space or choose another folder"
                ) from error


def _members(archive: Path, content: zipfile.ZipFile, prefix: str) -> list[zipfile.ZipInfo]:
    """The files below `prefix`, after a check of every entry."""
    entries = content.infolist()
    total = sum(entry.file_size for entry in entries)
    if len(entries) > MAX_MEMBERS or total > MAX_RATIO * archive.stat().st_size + SMALL:
        raise DataError(
            f"{archive} claims to hold {len(entries)} files of {total} bytes, so it is not"
            " Broden; get it again"
        )
    result: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        name = entry.orig_filename
        kind = stat.S_IFMT(entry.external_attr >> 16)
        parts = name.removesuffix("/").split("/")
        if (
            not name.isprintable()
            or "\\" in name
            or not {"", ".", ".."}.isdisjoint(parts)
            or kind not in (0, stat.S_IFREG, stat.S_IFDIR)
            or name in result
        ):
            raise DataError(
                f"{archive} holds {name!r}, which occurs twice, leads out of its folder, or is not "
                "a regular file; get it again"
            )
        if not entry.is_dir() and name.startswith(prefix):
            result[name] = entry
    return list(result.values())

"""Archives that may lie about their contents: members are checked one by one, within bounds."""

import gzip
import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from jaxtyping import UInt8
from torch import Tensor

from advlens.datasets.decoding import read_image
from advlens.datasets.reading import FileData
from advlens.errors import DataError


class Bounded(gzip.GzipFile):
    """A gzip file that raises DataError after `most` bytes: 1 MB of gzip can hold 1 GB.

    Args:
        path: the file.
        most: maximum number of bytes to read from its contents.
        mend: what the file is not, and how to fix that; it ends the error message.
    """

    def __init__(self, path: Path, most: int, mend: str) -> None:
        super().__init__(path)
        self.most, self.mend = most, mend

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() > self.most:
            raise DataError(f"{self.name} holds more than {self.most} bytes, so it {self.mend}")
        return super().read(size)


class TarData(FileData):
    """Images in an uncompressed tar archive, read in place.

    Args:
        root: the archive.
        files: names of the members that are images.
        members: offset and size of each, in bytes.
        rest: as in `FileData`.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[str],
        *,
        members: Mapping[str, tuple[int, int]],
        **rest: Any,
    ) -> None:
        super().__init__(root, files, **rest)
        self._members = members

    def _read(self, i: int) -> UInt8[Tensor, "3 h w"]:
        path = self.root / self.files[i]
        try:
            file = self._open(i)
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}; open the data again") from error
        return read_image(path, self.transform, file)

    def _open(self, i: int) -> IO[bytes]:
        begin, size = self._members[self.files[i]]
        with open(self._archive(i), "rb") as archive:
            archive.seek(begin)
            return io.BytesIO(archive.read(size))

    def _archive(self, i: int) -> Path:
        """The archive that holds an image."""
        return self.root

    def _size(self, i: int) -> int:
        return self._members[self.files[i]][1]


def tar_members(archive: Path, most: int) -> dict[str, tuple[int, int]]:
    """Offsets and sizes of the plain files in an uncompressed tar archive, by name.

    Nothing is unpacked, so the target of a name or a link does not matter.

    Args:
        archive: the file.
        most: maximum number of members.

    Raises:
        DataError: the archive is damaged, has more members, or has one of them twice.
    """
    members: dict[str, tuple[int, int]] = {}
    try:
        end = archive.stat().st_size
        with tarfile.open(archive, mode="r:") as tar:
            for number, member in enumerate(tar, 1):
                name = member.name.removeprefix("./")
                whole = 0 <= member.size <= end - member.offset_data
                if number > most or name in members or not whole:
                    raise DataError(
                        f"{archive} is damaged or not the archive it is named after: see its member"
                        f" {number}, {name!r}; fetch it again"
                    )
                if member.isreg() and not member.issparse():
                    members[name] = (member.offset_data, member.size)
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DataError(f"cannot read the archive {archive}: {error}; fetch it again") from error
    return members

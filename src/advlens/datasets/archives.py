"""Archives that may lie about what they hold: members are looked at one by one, in bounds."""

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
    """A gzip file that ends in a DataError after so many bytes: 1 MB of gzip can hold 1 GB.

    Args:
        path: the file.
        most: bytes of its contents that are read at most.
        mend: what it is not, and how to mend it; ends the message.
    """

    def __init__(self, path: Path, most: int, mend: str) -> None:
        super().__init__(path)
        self.most, self.mend = most, mend

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() > self.most:
            raise DataError(f"{self.name} holds more than {self.most} bytes, so it {self.mend}")
        return super().read(size)


class TarData(FileData):
    """Images in an uncompressed tar archive, read where they lie.

    Args:
        root: the archive.
        files: names of the members.
        members: where each begins, and its size, in bytes.
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
        with open(self.root, "rb") as archive:
            archive.seek(begin)
            return io.BytesIO(archive.read(size))

    def _size(self, i: int) -> int:
        return self._members[self.files[i]][1]


def tar_members(archive: Path, most: int) -> dict[str, tuple[int, int]]:
    """Where the plain files of an uncompressed tar archive begin, and their sizes, by name.

    Nothing is unpacked, so that it does not matter where a name or a link points to.

    Args:
        archive: the file.
        most: members that it may have.

    Raises:
        DataError: it is damaged, has more members, or one of them twice.
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

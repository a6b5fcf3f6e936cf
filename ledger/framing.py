"""Files of frames: what exports are written in. A damaged, cut or lengthened file is refused with the number of the frame.

    file    a line that names the kind of file, frames, an empty frame
    frame   length (4 bytes, big-endian), first 16 bytes of the content's blake2b-256 under the tag `frame`, content

The checksum tells damage from fraud; what a frame says is believed only after its own checks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Final

from .crypto import digest
from .errors import DecodeError

CHECKSUM_BYTES: Final = 16
_END: Final = b""


class FrameWriter:
    """Writes frames to an open file; `close` ends the run of frames, the file stays open."""

    def __init__(self, file: BinaryIO, kind: bytes) -> None:
        self._file = file
        self.bytes_written = file.write(kind + b"\n")

    def write(self, content: bytes) -> None:
        """Append a frame; the content is not empty."""
        assert content, "an empty frame ends the file"
        self._frame(content)

    def close(self) -> None:
        self._frame(_END)

    def _frame(self, content: bytes) -> None:
        self.bytes_written += self._file.write(len(content).to_bytes(4, "big") + _checksum(content) + content)


def is_kind(file: BinaryIO, kind: bytes) -> bool:
    """True if the file begins with this kind's line. Reads from the start and goes back to it."""
    file.seek(0)
    found = file.read(len(kind) + 1)
    file.seek(0)
    return found == kind + b"\n"


def read_frames(file: BinaryIO, kind: bytes, max_bytes: int) -> Iterator[bytes]:
    """The contents, in order. Raises DecodeError: another kind, damage, a cut or a lengthened file, or a huge frame."""
    if file.read(len(kind) + 1) != kind + b"\n":
        raise DecodeError(f"the file does not begin with {kind.decode()!r}", where="file")
    number = 0
    while True:
        where = f"frame {number}"
        size = int.from_bytes(_exactly(file, 4, where), "big")
        if size > max_bytes:
            raise DecodeError(f"{size} bytes, at most {max_bytes} allowed", where=where)
        checksum = _exactly(file, CHECKSUM_BYTES, where)
        content = _exactly(file, size, where)
        if _checksum(content) != checksum:
            raise DecodeError("damaged: the checksum differs", where=where)
        if not content:
            break
        yield content
        number += 1
    if file.read(1):
        raise DecodeError("bytes after the end", where="file")


def _exactly(file: BinaryIO, size: int, where: str) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise DecodeError("the file ends too early", where=where)
    return data


def _checksum(content: bytes) -> bytes:
    return digest("frame", content)[:CHECKSUM_BYTES]

"""Files under the trace format: compression, JSON lines, and writing that is atomic.

Whatever is wrong with a file is a :class:`BadInput` that names it.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import zstandard

from tokencake.traces.errors import BadInput

MAX_LINE = 1 << 28
"""Longest line of a text file, in bytes."""
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_CHUNK = 1 << 17

StrPath = str | os.PathLike[str]


@contextmanager
def reading(path: StrPath) -> Iterator[IO[bytes]]:
    """Open a file for reading, decompressed as its first bytes say.

    Raises:
        BadInput: for a file that cannot be opened, read or decompressed.
    """
    try:
        with Path(path).open("rb") as raw, _decompressed(raw) as stream:
            yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise BadInput(f"must be a complete compressed file ({error})", file=path) from None
    except FileNotFoundError:
        raise BadInput("no such file", file=path) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise BadInput(f"cannot be read ({reason or error})", file=path) from None


def read_bytes(path: StrPath) -> bytes:
    """Return a file's whole content, decompressed.

    Raises:
        BadInput: for a file that cannot be read or decompressed.
    """
    with reading(path) as stream:
        return stream.read()


def text_lines(path: StrPath) -> Iterator[tuple[int, bytes]]:
    """Yield number (from 1) and bytes of every line that is not blank.

    Raises:
        BadInput: for a file that cannot be read or decompressed, and for an endless line.
    """
    line = 0
    with reading(path) as stream:
        while raw := stream.readline(MAX_LINE + 1):
            line += 1
            if len(raw) > MAX_LINE:
                raise BadInput(f"must have at most {MAX_LINE} bytes", file=path, line=line)
            if not raw.isspace():
                yield line, raw


def json_lines(path: StrPath) -> Iterator[tuple[int, Any]]:
    """Yield number (from 1) and JSON value of every line that is not blank.

    Raises:
        BadInput: for a file that cannot be read or decompressed, and for a line that is not JSON.
    """
    for line, raw in text_lines(path):
        try:
            value = parse_json(raw)
        except BadInput as error:
            raise error.at(path, line) from None
        yield line, value


def parse_json(raw: bytes) -> Any:
    """Return the value of JSON text; repeated keys are refused.

    NaN and Infinity are left to the checks of the fields, which can name them.

    Raises:
        BadInput: without file and line.
    """
    try:
        text = raw.decode("utf-8")
        return json.loads(text, object_pairs_hook=_pairs)
    except UnicodeDecodeError as error:
        raise BadInput(f"must be UTF-8 (byte {error.start + 1} is not)") from None
    except json.JSONDecodeError as error:
        raise BadInput(f"must be JSON ({error.msg} at character {error.pos + 1})", value=text.strip()) from None
    except RecursionError:
        raise BadInput("must be JSON of reasonable depth") from None
    except ValueError:
        raise BadInput("must be JSON with numbers of reasonable length") from None


@contextmanager
def writing(path: StrPath, *, overwrite: bool = False) -> Iterator[IO[bytes]]:
    """Open a file for writing that appears under its name, complete, when the block ends well.

    The suffix chooses the compression: ``.gz``, ``.zst``, or none. Equal content gives equal bytes.
    When the block fails, nothing is left behind and what was there is untouched.

    Raises:
        BadInput: when the file is already there and ``overwrite`` is false, or cannot be written.
    """
    path = Path(path)
    try:
        with _replacing(path, overwrite) as raw, _compressed(path, raw) as stream:
            yield stream
    except OSError as error:
        raise BadInput(f"cannot be written ({error.strerror or error})", file=path) from None


@contextmanager
def _replacing(path: Path, overwrite: bool) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path`` that replaces it when the block ends well."""
    _refuse(path, overwrite)
    handle, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as raw:
            yield raw
            raw.flush()
            os.fsync(raw.fileno())
        temporary.chmod(0o666 & ~umask())
        _refuse(path, overwrite)  # it may have come while we wrote
        temporary.replace(path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def _refuse(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise BadInput("is already there; --overwrite (overwrite=True) replaces it", file=path)


class _ZstdRaw(io.RawIOBase):
    """Decompresses zstandard frames; unlike the library's reader it notices a truncated one."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._compressed = b""
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._ready and self._more():
            pass
        view = memoryview(buffer).cast("B")
        size = min(len(view), len(self._ready))
        view[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def _more(self) -> bool:
        """Decompress one chunk into ``_ready``; return False at the end of the file."""
        self._compressed = self._compressed or self._raw.read(_CHUNK)
        if not self._compressed:
            if self._frame is not None:
                raise EOFError("it ends inside a frame")
            return False
        if self._frame is None:
            self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._ready = self._frame.decompress(self._compressed)
        self._compressed = b""
        if self._frame.eof:
            self._compressed = self._frame.unused_data
            self._frame = None
        return True


def _decompressed(raw: BinaryIO) -> IO[bytes]:
    magic = raw.read(4)
    raw.seek(0)
    if magic[:2] == _GZIP:
        return cast("IO[bytes]", gzip.GzipFile(fileobj=raw, mode="rb"))
    if magic == _ZSTD:
        return io.BufferedReader(_ZstdRaw(raw), _CHUNK)
    return raw


def _compressed(path: Path, raw: BinaryIO) -> IO[bytes]:
    if path.suffix == ".gz":
        # No name and no time in the gzip header: equal traces are equal files.
        return cast("IO[bytes]", gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0))
    if path.suffix == ".zst":
        return cast("IO[bytes]", zstandard.ZstdCompressor(level=9).stream_writer(raw, closefd=False))
    return io.BufferedWriter(_Kept(raw))


class _Kept(io.RawIOBase):
    """A file that stays open when its wrapper is closed."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        return self._raw.write(data)


def umask() -> int:
    """Permissions that new files do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    obj = dict(pairs)
    if len(obj) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise BadInput("must not stand twice in one object", field=twice[:80])
    return obj

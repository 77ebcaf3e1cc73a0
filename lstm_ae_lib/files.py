"""Writing files so that a reader sees the old content or the new, never half of either."""

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path


@contextlib.contextmanager
def replacing(path):
    """A temporary path beside ``path`` to write to; on success it takes ``path``'s place in one step.

    The bytes reach the disk before the rename, so a machine that loses power keeps the old file or has the new one. If
    the body raises, the temporary file is removed and ``path`` is as it was.

    Args:
        path: the file to make or replace; its folder is made if it is missing.

    Yields:
        Path: where to write. It ends as ``path`` does, for writers that go by the file's suffix.

    Raises:
        OSError: the folder cannot be written to; the message names it.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".tmp-", suffix="-" + path.name, dir=path.parent)
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path.name}: {error.strerror or error}", str(path.parent)) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
        # mkstemp makes a file that only its owner can read; a result is for everyone whom the umask lets read it.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder):
    """The new name, too, must reach the disk."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path) -> str:
    """The SHA-256 of a file's content, as 64 hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(path, value) -> None:
    """Writes ``value`` as indented JSON, atomically. NaN and infinity are refused with a ``ValueError``."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path):
    """Reads a JSON file; a ``ValueError`` names the file when it is damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error

"""Writing files so that a reader sees the old content or the new, never half of either."""

import contextlib
import hashlib
import json
import os
import sys
from pathlib import Path


@contextlib.contextmanager
def replacing(path):
    """A temporary path beside ``path``, with its suffix, to write to; on success it takes ``path``'s place in one step.

    A missing folder is made, an existing file's mode is kept, a link is followed. Raises ``OSError`` for what is read-only.
    """
    path = Path(os.path.realpath(path))
    check_writable(path)
    temporary = path.with_name(f".tmp-{os.urandom(4).hex()}-{path.name[-16:]}")  # names have a length, too
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(0o666, exist_ok=False)  # less the umask
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path.name}: {error.strerror or error}", str(path.parent)) from error
    with contextlib.ExitStack() as stack:
        stack.callback(temporary.unlink, missing_ok=True)
        if path.exists():
            temporary.chmod(path.stat().st_mode & 0o7777)
        yield temporary
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())  # before the rename: after a loss of power there is the old file or the new one
        os.replace(temporary, path)
        if os.name == "posix":
            folder = os.open(path.parent, os.O_RDONLY)
            stack.callback(os.close, folder)
            os.fsync(folder)  # the new name, too


def check_writable(path) -> None:
    """Raises ``OSError`` for what exists and is a folder, a pipe or a device, or read-only, also where the user is root."""
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path} is a folder")
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(f"cannot write {path}: it is a pipe or a device, no file")
    if os.path.exists(path) and not (os.stat(path).st_mode & 0o222 and os.access(path, os.W_OK)):
        raise PermissionError(f"cannot write {path}: it is read-only")


def check_source(source) -> None:
    """Raises ``FileNotFoundError`` unless :func:`read` can read ``source``."""
    if not isinstance(source, bytes) and str(source) != "-" and (not Path(source).exists() or Path(source).is_dir()):
        raise FileNotFoundError(f"there is no file {source}" + " but a folder" * Path(source).is_dir())


def read(source) -> bytes:
    """The content of a file, of a pipe, of standard input (``-``), or ``source`` itself if it is bytes."""
    check_source(source)
    return source if isinstance(source, bytes) else sys.stdin.buffer.read() if str(source) == "-" else Path(source).read_bytes()


def write(target, content: bytes) -> None:
    """Writes a file, whole or not at all, or to standard output (``-``)."""
    if str(target) == "-":
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        with replacing(target) as temporary:
            temporary.write_bytes(content)


def sha256(path) -> str:
    """The SHA-256 of a file's content, as 64 hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(path, value) -> None:
    """Writes ``value`` as indented JSON, atomically. NaN and infinity are refused with a ``ValueError``."""
    write(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path):
    """Reads a JSON file; a ``ValueError`` names the file when it is damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error

"""Which files of a folder get a row, in which order, and under which key."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase

from runtime.causes import about_the_path, remedy
from runtime.errors import CmtError, UsageError
from runtime.sorted_entries import identity, sorted_entries

FORMULA_STARTS = ("=", "+", "-", "@")
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\\\\]")
_FORMULA = re.compile(rf"(\./)*[{re.escape(''.join(FORMULA_STARTS))}]")
MAGIC = re.compile(r"[*?\[]")


def list_files(
    folder: str | os.PathLike[str], *, pattern: str = "", leave_out: Collection[str | os.PathLike[str]] = ()
) -> Iterator[str]:
    """Yield everything in a folder that is no folder, recursively and in the order of the names' bytes.

    Links to folders are followed, except back into a folder they lie in. A subfolder that may not be listed is yielded
    itself, so that it gets a row; so are broken links, pipes and devices. Memory does not grow with the folder.

    Args:
        folder: Where to look.
        pattern: Only what matches it, in the shell's way: ``*``, ``?``, ``[a-z]`` within a name, ``**`` for any number
            of folders; hidden names only where it names the dot. Empty matches everything.
        leave_out: Files and folders that get no row: the output itself.

    Yields:
        Paths below `folder`, with slashes.

    Raises:
        UsageError: `folder` is missing, no folder or cannot be listed.
        CmtError: The machine cannot list a folder now: a full temporary folder, too many open files, a broken disk.
    """
    root = os.fspath(folder)
    try:
        stack = [("", sorted_entries(root), identity(root))]
    except OSError as error:
        if not about_the_path(error):
            raise _out_of_reach(root, error) from None
        got = f"got: {error.strerror}; check the path"
        raise UsageError(f"{root!a}: expected a folder of images, {got}") from None
    wanted = tuple(pattern.split("/"))
    hidden = {os.path.realpath(path) for path in leave_out}
    hidden_names = {os.path.basename(path) for path in hidden}
    while stack:
        prefix, entries, _ = stack[-1]
        for entry in entries:
            relative = prefix + entry.name
            if (entry.is_link or entry.name in hidden_names) and _real(root, relative) in hidden:
                continue
            if not entry.is_folder:
                if not pattern or _matches(relative.split("/"), wanted):
                    yield relative
            elif not pattern or _may_hold(relative.split("/"), wanted):
                path = os.path.join(root, relative)
                try:
                    own = identity(path)
                    if any(own == above for _, _, above in stack):
                        continue
                    stack.append((relative + "/", sorted_entries(path), own))
                except OSError as error:
                    if not about_the_path(error):
                        raise _out_of_reach(path, error) from None
                    yield relative
                else:
                    break
        else:
            stack.pop()


def _out_of_reach(folder: str, error: OSError) -> CmtError:
    """Return the one line for a folder that the machine cannot list now; a row for it would hide what is in it."""
    mend = remedy(error, "mend its disk or server, or leave it out with a manifest")
    place = error.filename or folder
    return CmtError(f"{place!a}: expected to look into it, got: {error.strerror}; {mend}; the same command goes on")


def _real(root: str, relative: str) -> str:
    return os.path.realpath(os.path.join(root, relative))


def count_files(folder: str | os.PathLike[str]) -> int:
    """Return about how many files `list_files` yields, without sorting anything; links to folders are not followed."""
    count, folders = 0, [os.fspath(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        count += 1
        except OSError:
            count += 1
    return count


def split_pattern(pattern: str) -> tuple[str, str]:
    """Split a glob into the folder before the first ``*``, ``?`` or ``[``, and the pattern below it."""
    parts = pattern.split("/")
    first = next(index for index, part in enumerate(parts) if MAGIC.search(part))
    folder = "/".join(parts[:first])
    return folder or ("/" if first else "."), "/".join(parts[first:])


def key(name: str) -> str:
    r"""Return how a file is named in its row: unique and safe to write anywhere.

    Slashes separate; a backslash is doubled; a byte that is no UTF-8 becomes ``\xNN``, and so does a control
    character (``\uNNNN`` beyond ASCII), so that a key is one line; a name that a spreadsheet would run as a formula
    starts with ``./``, which names the same file. One that would be mistaken for such a key gets another ``./``: in an
    archive, ``=x`` and ``./=x`` are two members.

    Args:
        name: Path below the folder, or as the manifest has it.
    """
    if not (name.isascii() and name.isprintable() and "\\" not in name):
        name = UNSAFE.sub(_escape, name)
    return "./" + name if _FORMULA.match(name) else name


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if match[0] == "\\":
        return "\\\\"
    if 0xDC80 <= code < 0xDD00:  # how Python spells a byte that is no UTF-8
        code -= 0xDC00
        return f"\\x{code:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"


def _matches(parts: list[str], pattern: tuple[str, ...]) -> bool:
    """Whether a whole path matches a whole pattern."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or (_visible(parts, "*") and _matches(parts[1:], pattern))
    return _visible(parts, pattern[0]) and _matches(parts[1:], pattern[1:])


def _may_hold(parts: list[str], pattern: tuple[str, ...]) -> bool:
    """Whether something below this folder can match the pattern."""
    if not parts:
        return bool(pattern)
    if not pattern:
        return False
    if pattern[0] == "**":
        return _may_hold(parts, pattern[1:]) or (_visible(parts, "*") and _may_hold(parts[1:], pattern))
    return _visible(parts, pattern[0]) and _may_hold(parts[1:], pattern[1:])


def _visible(parts: list[str], pattern: str) -> bool:
    if not parts or (parts[0].startswith(".") and not pattern.startswith(".")):
        return False
    return fnmatchcase(parts[0], pattern)

"""SHA-256 by OpenSSL's own functions, without Python's wrapper, which loads and looks up all that OpenSSL has.

Why, and what it saves: ``docs/decisions/0014-what-a-guard-leaves-behind.md``.
"""

from __future__ import annotations

import ctypes
from typing import Any, Self

import numpy as np

LIBRARY = "libcrypto.so.3"
ROOM = 512
"""Bytes for OpenSSL's SHA256_CTX, which takes 112."""
KNOWN = b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
"""A message and its hash. Source: FIPS 180-4, its example of one block."""


class OpenSSL:
    """The library, once it has hashed a known message rightly."""

    def __init__(self, name: str = LIBRARY) -> None:
        """Load it.

        Raises:
            OSError: There is none of that name, it lacks SHA-256, or hashes wrongly.
        """
        library = ctypes.CDLL(name)
        try:
            self.start: Any = library.SHA256_Init
            self.add: Any = library.SHA256_Update
            self.end: Any = library.SHA256_Final
        except AttributeError as error:
            raise OSError(str(error)) from None
        self.add.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
        message, expected = KNOWN
        if self.sha256(message).hexdigest() != expected:
            raise OSError(f"{name}: expected the SHA-256 {expected}")

    def sha256(self, data: bytes | memoryview) -> Hash:
        """Start a SHA-256 with `data`."""
        state = ctypes.create_string_buffer(ROOM)
        self.start(state)
        started = Hash(self, state)
        started.update(data)
        return started


class Hash:
    """A SHA-256 under way, to be used as those of `hashlib` are."""

    def __init__(self, library: OpenSSL, state: ctypes.Array[ctypes.c_char]) -> None:
        """Take a state that the library has started."""
        self._library = library
        self._state = state

    def update(self, data: bytes | memoryview) -> None:
        """Go on with these bytes; other threads run meanwhile."""
        if len(data):
            address = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
            self._library.add(self._state, address, len(data))

    def copy(self) -> Self:
        """Return another one that has seen the same bytes."""
        return type(self)(self._library, type(self._state).from_buffer_copy(self._state))

    def hexdigest(self) -> str:
        """Return the hash as lower-case hexadecimal; more may be added after."""
        result = ctypes.create_string_buffer(32)
        self._library.end(result, self.copy()._state)
        return result.raw.hex()

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from runtime import digests, openssl
from runtime.openssl import OpenSSL


@pytest.mark.parametrize("size", [0, 1, 55, 56, 63, 64, 65, 1000, 1_000_003])
@pytest.mark.parametrize("cut", [0, 1, 64, 777])
def test_hashes_as_hashlib_does(size: int, cut: int) -> None:
    data = memoryview(np.random.default_rng(size).bytes(size))
    found = OpenSSL().sha256(data[:cut])
    found.update(data[cut:])
    assert found.hexdigest() == hashlib.sha256(data).hexdigest()


def test_a_copy_goes_its_own_way_and_a_hash_may_be_read_twice() -> None:
    one = OpenSSL().sha256(b"a")
    other = one.copy()
    one.update(b"b")
    for _ in range(2):
        assert one.hexdigest() == hashlib.sha256(b"ab").hexdigest()
        assert other.hexdigest() == hashlib.sha256(b"a").hexdigest()
    one.update(b"c")
    assert one.hexdigest() == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize("name", ["libcrypto.so.none", "libc.so.6"])
def test_python_hashes_where_there_is_no_such_library(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match=r"libcrypto\.so\.none|SHA256_Init"):
        OpenSSL(name)
    monkeypatch.setattr(digests, "_openssl", lambda: OpenSSL(name))
    assert isinstance(digests.sha256(b"a"), type(hashlib.sha256()))


def test_a_library_that_hashes_wrongly_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openssl, "KNOWN", (b"abd", openssl.KNOWN[1]))
    with pytest.raises(OSError, match=r"libcrypto.so.3: expected the SHA-256 ba7816bf"):
        OpenSSL()

from __future__ import annotations

import runtime


def test_all_is_frozen() -> None:
    assert runtime.__all__ == [
        "CmtError",
        "DeviceError",
        "GateFailed",
        "Guard",
        "GuardPool",
        "GuardSpec",
        "ImageError",
        "InputSpec",
        "ModelError",
        "SomeInputsFailed",
        "StaleError",
        "UsageError",
        "Verdict",
        "Verdicts",
    ]


def test_every_public_name_exists() -> None:
    assert all(hasattr(runtime, name) for name in runtime.__all__)

"""The edge runtime: load a guard file, trust it for a reason, classify images or refuse them.

```python
from runtime import Guard

guard = Guard("guard.onnx", sha256="...")
for verdict in guard.classify(images):  # uint8 (N, H, W, C)
    print(verdict.name if verdict.accepted else "refused", verdict.confidence)
```

The first use of a name imports its module: `Guard` brings numpy and onnxruntime, and nothing heavier.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.errors import (
        CmtError,
        DeviceError,
        GateFailed,
        ImageError,
        ModelError,
        SomeInputsFailed,
        StaleError,
        UsageError,
    )
    from runtime.guard import Guard
    from runtime.pool import GuardPool
    from runtime.spec import GuardSpec, InputSpec
    from runtime.verdicts import Verdict, Verdicts

__all__ = [
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

_HOMES = {
    "Guard": "guard",
    "GuardPool": "pool",
    "GuardSpec": "spec",
    "InputSpec": "spec",
    "Verdict": "verdicts",
    "Verdicts": "verdicts",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

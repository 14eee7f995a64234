"""Whether the Python packages of a role are installed."""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from sled.checks.check import Check, failed, ok

NAME: Final = "Python packages"

_EXTRAS: Final = {
    "agent": ("edge", ("jinja2", "numpy", "onnxruntime", "prometheus_client", "transformers")),
    "verifier": ("verifier", ("accelerate", "numba", "numpy", "prometheus_client", "torch", "transformers")),
}
"""Role → its extra in pyproject.toml, and what it imports of it."""


def check_extras(role: str) -> Check:
    """See that the packages of a role's extra are there; they are not imported."""
    try:
        release = f"sled-mqtt {version('sled-mqtt')}"
    except PackageNotFoundError:
        release = "sled-mqtt, not installed but run in place"
    if role not in _EXTRAS:
        return ok(NAME, f"{release}; this role needs no extra")
    extra, packages = _EXTRAS[role]
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        return failed(NAME, f"{release}; missing: {', '.join(missing)}", f"pip install 'sled-mqtt[{extra}]'")
    return ok(NAME, f"{release} with [{extra}]")

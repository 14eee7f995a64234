"""Which errors are sentences for the person at the terminal, and the exit codes they lead to.

0: done. 1: it could not be done, and a sentence says why. 2: the command line is wrong. 3: an answer is not what the
target alone writes.
"""

from __future__ import annotations

import importlib.util
from typing import Final

FAILED: Final = 1
NOT_IDENTICAL: Final = 3

_EXPECTED: Final = (
    "broker.errors:BrokerError",
    "edge_agent.drafters.drafter:DrafterError",
    "edge_agent.spool:SpoolError",
    "edge_agent.tokenizer:TokenizerError",
    "models.error:ModelError",
    "provisioning.errors:ProvisioningError",
    "schemas.errors:WireError",
    "sled.client:NoAnswerError",
    "sled.demo:DemoError",
    "sled.fleet:FleetError",
    "sled.processes:ProcessEndedError",
    "sled.run:MetricsError",
    "verifier.engine.errors:EngineError",
)


def is_sentence(error: BaseException) -> bool:
    """Whether an error's message is meant for the person at the terminal.

    Looked up by name, so that a device never imports a role it does not run.
    """
    names = {f"{kind.__module__}:{kind.__qualname__}" for kind in type(error).__mro__}
    return any(name in names for name in _EXPECTED)


def missing_extra(error: ImportError) -> str | None:
    """Return what to install if a role's package is missing, or None if the import failed for another reason."""
    extras = {
        "onnxruntime": "edge",
        "tokenizers": "edge",
        "jinja2": "edge",
        "transformers": "edge or verifier",
        "torch": "verifier",
        "accelerate": "verifier",
        "numba": "verifier",
        "numpy": "edge or verifier",
        "prometheus_client": "edge or verifier",
        "amqtt": "broker",
        "gguf": "models",
        "onnxruntime_genai": "models",
    }
    package = (error.name or "").partition(".")[0]
    if package not in extras or importlib.util.find_spec(package) is not None:
        return None
    extra = extras[package].partition(" ")[0]
    return f"this command needs {package}, which is not installed: pip install 'sled-mqtt[{extra}]'"

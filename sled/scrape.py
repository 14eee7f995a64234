"""Reading a Prometheus endpoint of a role."""

from __future__ import annotations

import urllib.request
from typing import TypeAlias

Samples: TypeAlias = "dict[str, float]"
"""Values by sample name, labels added up."""


def scrape(url: str, timeout: float = 5.0) -> Samples:
    """Return the samples of a Prometheus text endpoint; samples that differ only in labels are added up.

    Raises:
        OSError: nobody answers there.
    """
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415 -- only where it is needed

    with urllib.request.urlopen(url, timeout=timeout) as answer:  # noqa: S310 -- our own http address
        text = answer.read().decode()
    samples: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples[sample.name] = samples.get(sample.name, 0.0) + sample.value
    return samples

"""How to reach an MQTT broker (the one paho bridge all roles use), and how to run one.

It may import `schemas` only; it knows nothing of drafts, verdicts or models.
"""

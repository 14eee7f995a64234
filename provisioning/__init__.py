"""Identities and installs: who may do what, and how a fleet is set up.

It may import `broker` and `schemas`; never `edge_agent`, `verifier` or `models`.
"""

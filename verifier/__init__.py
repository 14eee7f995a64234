"""The server's side: one target model verifies the drafts of many devices in shared batches.

It may import `broker` and `schemas`; never `edge_agent` or `models`.
"""

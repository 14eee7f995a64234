"""The device's side: drafts tokens locally, has them verified, streams the answer to apps.

It may import `broker` and `schemas`; never `verifier`, `models` or torch.
"""

"""The target model: packed ragged forward, per-session KV storage, and choosing tokens.

Only this room of the verifier imports torch.
"""

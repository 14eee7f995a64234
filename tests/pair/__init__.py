"""The agent's session and the verifier's ledger, joined by a link that loses, repeats, reorders and delays."""

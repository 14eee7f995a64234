"""One file per kind of drafter; `drafter` says what they have in common."""

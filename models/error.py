"""The one error of this room."""


class ModelError(Exception):
    """A model cannot be got or made; the message says what was wrong, where, and what to do."""

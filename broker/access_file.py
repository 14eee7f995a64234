"""The file in which a broker of this system finds its rules and identities: JSON, rendered by `provisioning`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from broker.access import Access, AccessInvalid

if TYPE_CHECKING:
    from pathlib import Path

_MOST_BYTES: Final = 64 * 2**20
_DECODER: Final = msgspec.json.Decoder(Access)


def encode_access(access: Access) -> str:
    """Return an access file's text."""
    return msgspec.json.format(msgspec.json.encode(access), indent=1).decode() + "\n"


def read_access(path: Path) -> Access:
    """Read an access file.

    Raises:
        AccessInvalid: it cannot be read, or is not what it must be; the sentence names the file and says why.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES)  # of a longer one the rest is missing, so that it is not valid
        return _DECODER.decode(text).check()
    except OSError as error:
        raise AccessInvalid(f"the access file {path} cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise AccessInvalid(f"the access file {path} is not valid: {error}") from error
    except RecursionError:
        raise AccessInvalid(f"the access file {path} is not valid: it is nested too deeply") from None
    except AccessInvalid as error:
        raise AccessInvalid(f"the access file {path} is not valid: {error}") from error

"""What an agent must not forget: requests, their epochs, and what was committed. SQLite, in one file.

Beside them, what it would rather not learn again: how far its drafters' confidences can be believed.

A write that fences (an epoch, the end of a request, a new request) is on disk before the call returns, and so are
released tokens, which no target would say again; committed tokens survive a killed process at once and a power cut up
to the last fencing write, after which the target says them again.
"""

from __future__ import annotations

import sqlite3
from array import array
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from edge_agent.reply import NOWHERE_ELSE, Reply
from schemas.messages import ReleasedRange, Sampling, StopRules

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from edge_agent.calibration import Row

_SCHEMA = """
CREATE TABLE IF NOT EXISTS request (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    session BLOB NOT NULL UNIQUE,
    body BLOB NOT NULL,
    target TEXT NOT NULL DEFAULT '',
    epoch INTEGER NOT NULL DEFAULT 0,
    runs INTEGER NOT NULL DEFAULT 0,
    finish TEXT,
    final BLOB,
    delivered INTEGER NOT NULL DEFAULT 0,
    response_topic TEXT,
    correlation BLOB,
    room INTEGER,
    numerics TEXT NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS piece (
    session BLOB NOT NULL,
    start INTEGER NOT NULL,
    tokens BLOB NOT NULL,
    PRIMARY KEY (session, start)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS released (
    session BLOB NOT NULL,
    start INTEGER NOT NULL,
    stop INTEGER NOT NULL,
    PRIMARY KEY (session, start)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS calibration (
    source TEXT NOT NULL,
    sampled INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (source, sampled)
) WITHOUT ROWID;
"""
_FORMAT = 1
_LATER_COLUMNS = {
    "response_topic": "TEXT",
    "correlation": "BLOB",
    "room": "INTEGER",
    "numerics": "TEXT NOT NULL DEFAULT ''",
}
"""Of `request`, with which the format has grown since; an earlier release reads past them."""


class SpoolError(Exception):
    """The spool cannot be used; the message says why and what to do."""


class Spooled(Struct, frozen=True):
    """A request as it was asked.

    Attributes:
        id: the app's name for it, or one drawn for it.
        session: eight random bytes.
        prompt: token ids, chat template applied.
        stop_strings: end the text; the agent looks for them.
        revise: whether the app can take back what it was shown.
    """

    id: str
    session: bytes
    prompt: tuple[int, ...]
    max_tokens: int
    tokenizer: str
    sampling: Sampling = Sampling()
    stop: StopRules = StopRules()
    stop_strings: tuple[str, ...] = ()
    revise: bool = False


class Progress(Struct, frozen=True):
    """How far a request has come.

    Attributes:
        epoch: the highest epoch counter its session used.
        runs: how many runs of the agent took it up before this one.
        committed: output token ids.
        finish: why it has ended, or None.
        final: its last answer event as it was sent, or None.
        target: name of the target that writes the text; empty if no verifier was found yet.
        released: ranges of `committed` that the target did not confirm.
        room: output tokens that the text may have; None if that is not settled yet, or was begun by an older release.
        numerics: fingerprint of how its latest verifier computes; empty where that is not known.
    """

    epoch: int
    runs: int
    committed: tuple[int, ...]
    finish: str | None
    final: bytes | None
    target: str = ""
    released: tuple[ReleasedRange, ...] = ()
    room: int | None = None
    numerics: str = ""


class Spool:
    """The requests of one device. Used from one thread at a time."""

    def __init__(self, path: Path | None) -> None:
        """Open or create the spool; None keeps it in memory, for trials.

        Raises:
            SpoolError: the file cannot be opened, is no spool, or is of a newer release.
        """
        where = str(path) if path else ":memory:"
        self._where = where
        db: sqlite3.Connection | None = None
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch(0o600)  # prompts are in it; SQLite gives its other files the same mode
            db = sqlite3.connect(where, isolation_level=None, check_same_thread=False, timeout=1)
            # Held until the file is closed, so that no second agent speaks for the same sessions.
            db.execute("PRAGMA locking_mode=EXCLUSIVE")
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            (found,) = db.execute("PRAGMA user_version").fetchone()
            if found not in (0, _FORMAT):
                raise SpoolError(  # noqa: TRY301 -- closed below like the rest
                    f"the spool {where} has format {found}, this release writes format {_FORMAT}: "
                    "update the agent, or move the file away to start with an empty one"
                )
            db.executescript(_SCHEMA)
            _add_later_columns(db)
            db.execute(f"PRAGMA user_version={_FORMAT}")
        except (sqlite3.Error, OSError, SpoolError) as error:
            if db is not None:
                db.close()
            if isinstance(error, SpoolError):
                raise
            if "locked" in str(error):
                raise SpoolError(
                    f"the spool {where} is used by another agent: stop that one, or give this one a spool of its own "
                    "with --spool"
                ) from error
            raise SpoolError(
                f"the spool {where} cannot be used ({error}): check that the folder is writable and the disk not full, "
                "or move a broken file away to start with an empty one"
            ) from error
        self._db = db

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def add(self, request: Spooled, reply: Reply = NOWHERE_ELSE) -> bool:
        """Take in a request, and where its answer is wanted; False if one with its id is known already.

        Raises:
            SpoolError: the disk did not take it; so with all that write.
        """
        with self._transaction():
            cursor = self._db.execute(
                "INSERT OR IGNORE INTO request (id, session, body, response_topic, correlation) VALUES (?, ?, ?, ?, ?)",
                (request.id, request.session, msgspec.msgpack.encode(request), reply.topic, reply.correlation),
            )
        return cursor.rowcount == 1

    def readdress(self, request: str, reply: Reply) -> None:
        """Note that the answer to the request with this id is wanted elsewhere from now on."""
        with self._transaction():
            self._db.execute(
                "UPDATE request SET response_topic = ?1, correlation = ?2 "
                "WHERE id = ?3 AND (response_topic IS NOT ?1 OR correlation IS NOT ?2)",
                (reply.topic, reply.correlation, request),
            )

    def reply(self, request: str) -> Reply:
        """Return where the answer to the request with this id is wanted, as far as it is known.

        Raises:
            SpoolError: the disk does not say.
        """
        try:
            row = self._db.execute(
                "SELECT response_topic, correlation FROM request WHERE id = ?", (request,)
            ).fetchone()
        except sqlite3.Error as error:
            raise SpoolError(
                f"where request {request} is to be answered cannot be read from the spool {self._where} ({error}): "
                "check the disk"
            ) from error
        return Reply(*row) if row else NOWHERE_ELSE

    def save(
        self,
        session: bytes,
        epoch: int,
        start: int,
        tokens: Iterable[int],
        finish: str | None,
        *,
        released: bool = False,
    ) -> None:
        """Make an epoch, newly committed tokens and an end durable, all or nothing.

        Args:
            session: whose they are.
            epoch: the highest counter used.
            start: output position of the first of `tokens`.
            tokens: may be empty.
            finish: why the text has ended, if it has.
            released: whether the tokens are drafts that the target did not confirm.
        """
        words = array("I", tokens)
        with self._reading():
            (known,) = self._db.execute("SELECT epoch FROM request WHERE session = ?", (session,)).fetchone()
        fences = finish is not None or epoch != known or released
        with nullcontext() if fences else self._unfenced(), self._transaction():
            if words:
                self._db.execute("INSERT INTO piece VALUES (?, ?, ?)", (session, start, words.tobytes()))
                if released:
                    self._release(session, start, start + len(words))
            if fences:
                self._db.execute("UPDATE request SET epoch = ?, finish = ? WHERE session = ?", (epoch, finish, session))

    def _release(self, session: bytes, start: int, stop: int) -> None:
        """Note a range, as one with a range that ends where it starts."""
        joined = self._db.execute(
            "UPDATE released SET stop = ? WHERE session = ? AND stop = ?", (stop, session, start)
        ).rowcount
        if not joined:
            self._db.execute("INSERT INTO released VALUES (?, ?, ?)", (session, start, stop))

    def finalize(self, session: bytes, final: bytes) -> None:
        """Note the last answer event of a request, so that it can be sent again."""
        with self._transaction():
            self._db.execute("UPDATE request SET final = ? WHERE session = ?", (final, session))

    def mark_delivered(self, requests: Iterable[str]) -> None:
        """Note that the final events of the requests with these ids have reached the broker."""
        with self._transaction():
            self._db.executemany(
                "UPDATE request SET delivered = 1 WHERE id = ? AND final IS NOT NULL AND delivered = 0",
                [(request,) for request in requests],
            )

    def mark_run(self, session: bytes) -> None:
        """Count that this run of the agent takes the request up."""
        with self._transaction():
            self._db.execute("UPDATE request SET runs = runs + 1 WHERE session = ?", (session,))

    def settle(self, session: bytes, target: str, room: int | None, numerics: str = "") -> None:
        """Note which target writes a session's text and how it computes, and how many output tokens it may have."""
        with self._transaction():
            self._db.execute(
                "UPDATE request SET target = ?, room = ?, numerics = ? WHERE session = ?",
                (target, room, numerics, session),
            )

    def find(self, request: str) -> Progress | None:
        """Return how far the request with this id has come, or None if it is not known.

        Raises:
            SpoolError: the disk does not say; so with `progress`, `unanswered` and `undelivered`.
        """
        with self._reading():
            row = self._db.execute("SELECT session FROM request WHERE id = ?", (request,)).fetchone()
        return self.progress(row[0]) if row else None

    def progress(self, session: bytes) -> Progress:
        """Return how far a session has come."""
        committed = array("I")
        with self._reading():
            epoch, runs, finish, final, target, room, numerics = self._db.execute(
                "SELECT epoch, runs, finish, final, target, room, numerics FROM request WHERE session = ?", (session,)
            ).fetchone()
            for (words,) in self._db.execute("SELECT tokens FROM piece WHERE session = ? ORDER BY start", (session,)):
                committed.frombytes(words)
            ranges = self._db.execute(
                "SELECT start, stop FROM released WHERE session = ? ORDER BY start", (session,)
            ).fetchall()
        released = tuple(ReleasedRange(start, stop) for start, stop in ranges)
        return Progress(epoch, runs, tuple(committed), finish, final, target, released, room, numerics)

    def unanswered(self) -> list[Spooled]:
        """Return the requests whose final event was never composed, oldest first."""
        return self._bodies("final IS NULL")

    def undelivered(self) -> list[tuple[Spooled, bytes]]:
        """Return the requests whose final event may not have reached the broker, with that event."""
        with self._reading():
            rows = self._db.execute(
                "SELECT body, final FROM request WHERE final IS NOT NULL AND delivered = 0 ORDER BY number"
            ).fetchall()
        return [(msgspec.msgpack.decode(body, type=Spooled), final) for body, final in rows]

    def keep_calibration(self, rows: Iterable[Row]) -> None:
        """Keep what was learnt of drafters, each in the place of what was kept of it before."""
        kept = list(rows)
        if kept:
            with self._unfenced(), self._transaction():
                self._db.executemany("INSERT OR REPLACE INTO calibration VALUES (?, ?, ?)", kept)

    def calibration(self) -> list[tuple[object, ...]]:
        """Return the rows kept, as the disk gives them: whoever reads them must expect damage.

        Raises:
            SpoolError: the disk does not give them.
        """
        try:
            return self._db.execute("SELECT source, sampled, body FROM calibration ORDER BY source, sampled").fetchall()
        except sqlite3.Error as error:
            raise SpoolError(
                f"what was learnt of drafters cannot be read from the spool {self._where} ({error}); it is learnt anew"
            ) from error

    def prune(self, keep: int) -> None:
        """Forget the oldest delivered requests until at most `keep` of them are left."""
        with self._transaction():
            self._db.execute(
                "DELETE FROM request WHERE delivered = 1 AND number NOT IN "
                "(SELECT number FROM request WHERE delivered = 1 ORDER BY number DESC LIMIT ?)",
                (keep,),
            )
            self._db.execute("DELETE FROM piece WHERE session NOT IN (SELECT session FROM request)")
            self._db.execute("DELETE FROM released WHERE session NOT IN (SELECT session FROM request)")

    def _bodies(self, where: str) -> list[Spooled]:
        with self._reading():
            rows = self._db.execute(
                f"SELECT body FROM request WHERE {where} ORDER BY number"  # noqa: S608 -- own text
            ).fetchall()
        return [msgspec.msgpack.decode(body, type=Spooled) for (body,) in rows]

    @contextmanager
    def _unfenced(self) -> Iterator[None]:
        """Within, a write survives a killed process, but a power cut may take it back."""
        with self._reading():
            self._db.execute("PRAGMA synchronous=NORMAL")
        try:
            yield
        finally:
            with self._reading():
                self._db.execute("PRAGMA synchronous=FULL")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Say in words what the disk does not give."""
        try:
            yield
        except sqlite3.Error as error:
            raise SpoolError(f"the spool {self._where} cannot be read ({error}): check the disk") from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit on success, roll back on error; say in words what the disk did not take."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk may have ended it already
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise SpoolError(
                f"the spool {self._where} could not be written ({error}): check that the disk is not full"
            ) from error


def _add_later_columns(db: sqlite3.Connection) -> None:
    """Bring the table of an earlier release up to date."""
    known = {name for _, name, *_ in db.execute("PRAGMA table_info(request)")}
    for name, kind in _LATER_COLUMNS.items():
        if name not in known:
            db.execute(f"ALTER TABLE request ADD COLUMN {name} {kind}")

"""What an agent must not forget, in real files."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.reply import NOWHERE_ELSE, Reply
from edge_agent.spool import Progress, Spool, Spooled, SpoolError
from schemas.messages import ReleasedRange, Sampling, StopRules
from tests.provisioning.bench import full_disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

ROOT = Path(__file__).parents[2]


def request(number: int = 1) -> Spooled:
    return Spooled(
        f"ask-{number}",
        number.to_bytes(8, "big"),
        (1, 2, 3),
        50,
        "70ce11a5",
        Sampling(0.7, 40, 0.9, 2**63 - 1),
        StopRules((5, 6), ignore_end=True),
        ("\n\n", "Ende"),
    )


ONE = request().session


@pytest.fixture
def spool() -> Iterator[Spool]:
    """A spool in memory."""
    opened = Spool(None)
    yield opened
    opened.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "spool.db"


# Requests -------------------------------------------------------------------------------------------------------------


def test_add_new_request_starts_with_no_progress(path: Path) -> None:
    spool = Spool(path)
    assert spool.add(request())
    assert spool.progress(ONE) == Progress(0, 0, (), None, None)
    assert spool.find("ask-1") == spool.progress(ONE)
    assert spool.unanswered() == [request()]
    spool.close()


def settled(path: Path) -> None:
    spool = Spool(path)
    spool.add(request())
    spool.settle(ONE, "tiny", 50)
    spool.close()


def test_settle_is_kept_over_a_restart(path: Path) -> None:
    settled(path)
    spool = Spool(path)
    assert (spool.progress(ONE).target, spool.progress(ONE).room) == ("tiny", 50)
    spool.close()


def test_settle_is_open_for_a_text_that_an_earlier_release_began(path: Path) -> None:
    settled(path)
    db = sqlite3.connect(path)
    db.execute("ALTER TABLE request DROP COLUMN room")
    db.close()
    spool = Spool(path)
    assert (spool.progress(ONE).target, spool.progress(ONE).room) == ("tiny", None)
    spool.close()


def test_add_same_id_again_is_refused_and_changes_nothing(path: Path) -> None:
    """An ask that is delivered twice is answered once."""
    spool = Spool(path)
    spool.add(request())
    spool.save(ONE, 1, 0, (7, 8), None)
    again = Spooled("ask-1", b"another1", (9,), 5, "70ce11a5")
    assert not spool.add(again)
    assert spool.unanswered() == [request()]
    assert spool.progress(ONE).committed == (7, 8)
    spool.close()


def test_add_same_id_after_reopening_is_refused(path: Path) -> None:
    spool = Spool(path)
    spool.add(request())
    spool.close()
    spool = Spool(path)
    assert not spool.add(request())
    spool.close()


def test_find_unknown_request_is_none(spool: Spool) -> None:
    assert spool.find("ask-1") is None


def test_reopened_spool_holds_everything(path: Path) -> None:
    spool = Spool(path)
    spool.add(request())
    spool.mark_run(ONE)
    spool.save(ONE, 1, 0, (), None)
    spool.save(ONE, 1, 0, (7, 2**31 - 1), None)
    spool.save(ONE, 2, 2, (9,), "stop")
    spool.finalize(ONE, b"{}")
    spool.close()
    spool = Spool(path)
    assert spool.progress(ONE) == Progress(2, 1, (7, 2**31 - 1, 9), "stop", b"{}")
    assert spool.undelivered() == [(request(), b"{}")]
    spool.close()


# Progress -------------------------------------------------------------------------------------------------------------


def test_save_pieces_are_joined_in_their_order(spool: Spool) -> None:
    spool.add(request())
    spool.add(request(2))
    spool.save(ONE, 1, 0, range(300), None)
    spool.save(request(2).session, 1, 0, (5,), None)
    spool.save(ONE, 1, 300, (7,), None)
    assert spool.progress(ONE).committed == (*range(300), 7)
    assert spool.progress(request(2).session).committed == (5,)


def test_save_is_all_or_nothing(spool: Spool) -> None:
    """Here the tokens cannot be written, since there are some at that place: epoch and end are not, either."""
    spool.add(request())
    spool.save(ONE, 1, 0, (7,), None)
    with pytest.raises(SpoolError):
        spool.save(ONE, 2, 0, (8,), "stop")
    assert spool.progress(ONE) == Progress(1, 0, (7,), None, None)
    spool.save(ONE, 2, 1, (8,), "stop")
    assert spool.progress(ONE) == Progress(2, 0, (7, 8), "stop", None)


def test_mark_run_counts(spool: Spool) -> None:
    spool.add(request())
    spool.mark_run(ONE)
    spool.mark_run(ONE)
    assert spool.progress(ONE).runs == 2


@settings(deadline=None, max_examples=50)
@given(pieces=st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5), max_size=12))
def test_save_any_pieces_gives_the_whole_back(pieces: list[list[int]]) -> None:
    spool = Spool(None)
    spool.add(request())
    committed: list[int] = []
    for piece in pieces:
        spool.save(ONE, 1, len(committed), piece, None)
        committed += piece
    assert spool.progress(ONE).committed == tuple(committed)
    spool.close()


# Killed processes -----------------------------------------------------------------------------------------------------

SAVES_FOREVER = """
import sys
from pathlib import Path
from edge_agent.spool import Spool, Spooled

spool = Spool(Path(sys.argv[1]))
spool.add(Spooled("ask-1", bytes(7) + b"\\x01", (1, 2, 3), 50, "70ce11a5"))
for number in range(1, 1_000_000):
    # Every seventh save raises the epoch.
    spool.save(bytes(7) + b"\\x01", number // 7, number - 1, (number,), None)
    print(number, flush=True)
"""


def test_save_survives_kill_9(path: Path) -> None:
    """A process is killed while it saves: every save that returned is there, and none is there by half."""
    script = [sys.executable, "-c", SAVES_FOREVER, str(path)]
    with subprocess.Popen(script, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        returned = [int(process.stdout.readline()) for _ in range(100)]
        process.kill()
        returned += [int(line) for line in process.stdout.read().split("\n") if line]
    spool = Spool(path)
    progress = spool.progress(ONE)
    assert len(progress.committed) in (returned[-1], returned[-1] + 1)
    assert progress.committed == tuple(range(1, len(progress.committed) + 1))
    assert progress.epoch == len(progress.committed) // 7
    spool.save(ONE, 1000, len(progress.committed), (), "cancelled")
    spool.close()


# Ends -----------------------------------------------------------------------------------------------------------------


def test_unanswered_lists_requests_without_a_final_event_oldest_first(spool: Spool) -> None:
    """One whose end is known, but was never said, is among them."""
    for number in (3, 1, 2):
        spool.add(request(number))
    spool.finalize(ONE, b"{}")
    spool.save(request(2).session, 1, 0, (), "stop")
    assert spool.unanswered() == [request(3), request(2)]


def test_undelivered_lists_final_events_until_they_are_marked(spool: Spool) -> None:
    for number in (3, 1, 2):
        spool.add(request(number))
    spool.finalize(ONE, b"one")
    spool.finalize(request(3).session, b"three")
    assert spool.undelivered() == [(request(3), b"three"), (request(1), b"one")]
    spool.mark_delivered(["ask-1"])
    assert spool.undelivered() == [(request(3), b"three")]
    spool.mark_delivered(["ask-3", "ask-2", "unknown"])
    assert spool.undelivered() == []
    spool.finalize(request(2).session, b"two")
    assert spool.undelivered() == [(request(2), b"two")], "it had nothing to be delivered then"


def test_prune_forgets_the_oldest_delivered_requests_and_their_tokens(spool: Spool) -> None:
    for number in range(1, 6):
        spool.add(request(number))
        spool.save(request(number).session, 1, 0, (number,), "stop")
        spool.finalize(request(number).session, b"{}")
    spool.mark_delivered([f"ask-{number}" for number in range(1, 6)])
    spool.prune(2)
    assert [number for number in range(1, 6) if spool.find(f"ask-{number}")] == [4, 5]
    assert spool.progress(request(5).session).committed == (5,)
    # A session of the same id begins with nothing.
    spool.add(request(1))
    assert spool.progress(ONE).committed == ()


def test_prune_never_forgets_what_is_under_way_or_undelivered(spool: Spool) -> None:
    spool.add(request(1))
    spool.add(request(2))
    spool.finalize(request(2).session, b"{}")
    spool.prune(0)
    assert spool.unanswered() == [request(1)]
    assert spool.undelivered() == [(request(2), b"{}")]


def test_prune_with_few_requests_changes_nothing(spool: Spool) -> None:
    spool.add(request())
    spool.finalize(ONE, b"{}")
    spool.mark_delivered(["ask-1"])
    spool.prune(1)
    assert spool.find("ask-1") is not None


# What was learnt of drafters ------------------------------------------------------------------------------------------


def test_calibration_kept_is_there_after_reopening_each_in_the_place_of_the_last(path: Path) -> None:
    spool = Spool(path)
    assert spool.calibration() == []
    spool.keep_calibration([("model", False, b"one"), ("model", True, b"two"), ("lookup", False, b"three")])
    spool.keep_calibration([])
    spool.keep_calibration([("model", False, b"four")])
    spool.close()
    spool = Spool(path)
    assert spool.calibration() == [("lookup", 0, b"three"), ("model", 0, b"four"), ("model", 1, b"two")]
    spool.close()


def test_calibration_finds_its_place_in_a_spool_that_an_earlier_release_made(path: Path) -> None:
    spool = Spool(path)
    spool.add(request())
    spool.close()
    db = sqlite3.connect(path)
    db.execute("DROP TABLE calibration")
    db.close()
    spool = Spool(path)
    spool.keep_calibration([("model", False, b"one")])
    assert spool.calibration() == [("model", 0, b"one")]
    assert spool.unanswered() == [request()]
    spool.close()


def test_calibration_that_the_disk_does_not_give_or_take_is_told_in_a_sentence(spool: Spool) -> None:
    spool._db.execute("DROP TABLE calibration")
    with pytest.raises(SpoolError, match=r"cannot be read from the spool .* it is learnt anew"):
        spool.calibration()
    with pytest.raises(SpoolError, match=r"could not be written .*: check that the disk is not full"):
        spool.keep_calibration([("model", False, b"one")])


def test_calibration_does_not_weaken_the_writes_after_it(spool: Spool) -> None:
    spool.keep_calibration([("model", False, b"one")])
    assert spool._db.execute("PRAGMA synchronous").fetchone() == (2,), "FULL"


# Files that will not do -----------------------------------------------------------------------------------------------


def test_open_broken_file_says_what_to_do(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(SpoolError, match=r"cannot be used \(file is not a database\).* move a broken file away"):
        Spool(path)


def test_open_file_of_a_newer_release_names_both_formats(path: Path) -> None:
    spool = Spool(path)
    spool.close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version=7")
    db.close()
    with pytest.raises(SpoolError, match=r"has format 7, this release writes format 1: update the agent"):
        Spool(path)


def test_open_where_a_folder_is_says_what_to_do(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(SpoolError, match=r"cannot be used \(unable to open database file\): check that the folder"):
        Spool(path)


def test_open_below_a_file_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpoolError, match=r"cannot be used .*: check that the folder is writable"):
        Spool(tmp_path / "file" / "spool.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_open_in_a_folder_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(SpoolError, match=r"cannot be used .*: check that the folder is writable"):
            Spool(tmp_path / "spool.db")
    finally:
        tmp_path.chmod(0o700)


def test_open_creates_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "spool.db"
    Spool(path).close()
    assert path.is_file()


# Released tokens ------------------------------------------------------------------------------------------------------


def test_released_tokens_are_remembered_as_ranges_that_do_not_touch(path: Path) -> None:
    spool = Spool(path)
    spool.add(request())
    spool.add(request(2))
    spool.save(ONE, 2, 0, (5, 6), None, released=True)
    spool.save(ONE, 2, 2, (7,), None, released=True)
    spool.save(ONE, 2, 3, (8,), None)
    spool.save(ONE, 3, 4, (9,), "stop", released=True)
    spool.save(request(2).session, 1, 3, (1,), None, released=True)
    spool.close()
    spool = Spool(path)
    assert spool.progress(ONE).released == (ReleasedRange(0, 3), ReleasedRange(4, 5))
    assert spool.progress(ONE).committed == (5, 6, 7, 8, 9)
    assert spool.progress(request(2).session).released == (ReleasedRange(3, 4),)
    spool.close()


def test_released_tokens_and_their_range_are_all_or_nothing(spool: Spool) -> None:
    """The tokens cannot be written, since there are some at that place."""
    spool.add(request())
    spool.save(ONE, 1, 0, (5, 6), None)
    with pytest.raises(SpoolError):
        spool.save(ONE, 2, 0, (7,), None, released=True)
    assert spool.progress(ONE).released == ()


def test_released_tokens_are_on_disk_before_they_are_shown(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """No target would say them again after a power cut; what it confirmed it would."""
    unfenced: list[bool] = []
    plain = spool._unfenced

    def watched() -> AbstractContextManager[None]:
        unfenced.append(True)
        return plain()

    spool.add(request())
    spool.save(ONE, 1, 0, (), None)
    monkeypatch.setattr(spool, "_unfenced", watched)
    spool.save(ONE, 1, 0, (5,), None, released=True)
    assert unfenced == []
    spool.save(ONE, 1, 1, (6,), None)
    assert unfenced == [True]


def test_prune_forgets_ranges_too(spool: Spool) -> None:
    spool.add(request())
    spool.save(ONE, 1, 0, (5,), "stop", released=True)
    spool.finalize(ONE, b"{}")
    spool.mark_delivered(["ask-1"])
    spool.prune(0)
    assert spool._db.execute("SELECT count(*) FROM released").fetchone() == (0,)


def test_request_of_an_earlier_release_is_read(spool: Spool) -> None:
    """It knows nothing of apps that take text back."""
    body = msgspec.msgpack.decode(msgspec.msgpack.encode(request()))
    del body["revise"]
    spool._db.execute(
        "INSERT INTO request (id, session, body) VALUES (?, ?, ?)", ("ask-1", ONE, msgspec.msgpack.encode(body))
    )
    assert spool.unanswered() == [request()]


# Where answers are wanted ---------------------------------------------------------------------------------------------

WANTED = Reply("my/inbox", b"\x00\xff")


def test_reply_is_there_after_reopening(path: Path) -> None:
    spool = Spool(path)
    spool.add(request(), WANTED)
    spool.add(request(2), Reply(correlation=b""))
    spool.add(request(3))
    spool.close()
    spool = Spool(path)
    replies = [spool.reply(f"ask-{number}") for number in range(1, 5)]
    assert replies == [WANTED, Reply(None, b""), NOWHERE_ELSE, NOWHERE_ELSE]
    spool.close()


def test_readdress_changes_that_request_only(spool: Spool) -> None:
    spool.add(request(), WANTED)
    spool.add(request(2), WANTED)
    spool.readdress("ask-1", Reply("another/inbox"))
    spool.readdress("unknown", Reply("another/inbox"))
    assert (spool.reply("ask-1"), spool.reply("ask-2")) == (Reply("another/inbox"), WANTED)


def test_reply_finds_its_place_in_a_spool_that_an_earlier_release_made(path: Path) -> None:
    spool = Spool(path)
    spool.add(request())
    spool.finalize(ONE, b"{}")
    spool.close()
    db = sqlite3.connect(path)
    for column in ("response_topic", "correlation"):
        db.execute(f"ALTER TABLE request DROP COLUMN {column}")
    db.close()
    spool = Spool(path)
    assert spool.reply("ask-1") == NOWHERE_ELSE
    assert spool.undelivered() == [(request(), b"{}")]
    spool.add(request(2), WANTED)
    spool.readdress("ask-1", WANTED)
    assert (spool.reply("ask-1"), spool.reply("ask-2")) == (WANTED, WANTED)
    spool.close()


def test_reply_that_the_disk_does_not_give_is_told_in_a_sentence(spool: Spool) -> None:
    spool._db.execute("DROP TABLE request")
    with pytest.raises(SpoolError, match=r"where request ask-1 is to be answered cannot be read .*: check the disk"):
        spool.reply("ask-1")


def test_a_new_spool_is_its_owners_alone(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db")
    spool.add(request())
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    spool.close()


# Disks that fail ------------------------------------------------------------------------------------------------------


WRITES: list[Callable[[Spool], object]] = [
    lambda spool: spool.add(request(2)),
    lambda spool: spool.mark_run(ONE),
    lambda spool: spool.save(ONE, 1, 0, (7,), None),
    lambda spool: spool.save(ONE, 0, 0, (7,), None),
    lambda spool: spool.finalize(ONE, b"{}"),
]


def test_full_disk_is_told_in_a_sentence_and_takes_everything_once_there_is_room(path: Path) -> None:
    spool = Spool(path)
    spool.add(request())
    with full_disk(path.with_name(path.name + "-wal").stat().st_size):
        for write in WRITES:
            with pytest.raises(SpoolError, match=r"could not be written .*: check that the disk is not full"):
                write(spool)
        assert spool.progress(ONE) == Progress(0, 0, (), None, None)
    spool.mark_run(ONE)
    spool.save(ONE, 1, 0, (7,), None)
    assert spool.progress(ONE) == Progress(1, 1, (7,), None, None)
    spool.close()


def test_full_database_is_told_as_what_it_is(path: Path) -> None:
    spool = Spool(path)
    spool.add(request())
    (pages,) = spool._db.execute("PRAGMA page_count").fetchone()
    spool._db.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(SpoolError, match=r"could not be written \(database or disk is full\)"):
        spool.save(ONE, 1, 0, range(5_000), None)
    assert spool.progress(ONE) == Progress(0, 0, (), None, None)
    spool.close()


@pytest.mark.parametrize(
    "use",
    [
        *WRITES,
        lambda spool: spool.find("ask-1"),
        lambda spool: spool.progress(ONE),
        lambda spool: spool.unanswered(),
        lambda spool: spool.undelivered(),
    ],
)
def test_broken_file_is_told_in_a_sentence(spool: Spool, use: Callable[[Spool], object]) -> None:
    spool._db.execute("DROP TABLE request")
    with pytest.raises(SpoolError, match=r": check (that )?the disk"):
        use(spool)

"""The raw log of a run: one file of JSON lines for the app, one for each process and one for each link.

    DIR/run.json            what was run
    DIR/app.jsonl           what was asked, and every answer event as it came
    DIR/process-NAME.jsonl  when a process was started, killed, frozen and let go on, and what it took of the machine
                            meanwhile; its own words are in DIR/NAME.log
    DIR/link-NAME.jsonl     every PUBLISH through a device's link and what became of it, cuts and settings

All times are seconds of one clock, `time.monotonic` of the machine that everything ran on.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, Literal, Self, TypeAlias, TypeVar

import msgspec

from benchmarks.kit.error import BenchError
from benchmarks.kit.faults.plan import Plan, Role
from benchmarks.kit.link_log import LinkEvent
from schemas.messages import Ask

if TYPE_CHECKING:
    from pathlib import Path


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What was run.

    Attributes:
        plan: with the seed that was used.
        target: folder of the target model.
        drafters: of every device, as for `sled agent --drafter`.
        prompts: file they are from; empty for the built-in ones.
    """

    plan: Plan
    target: str
    drafters: tuple[str, ...]
    prompts: str = ""


# What the app writes ----------------------------------------------------------------------------------------------


class Asked(msgspec.Struct, frozen=True, tag_field="event", tag="asked"):
    """A request was sent to a device: for the first time, or again because of a new connection or of silence."""

    at: float
    device: str
    ask: Ask
    why: Literal["first", "reconnected", "silence"] = "first"


class Heard(msgspec.Struct, frozen=True, tag_field="event", tag="heard"):
    """An answer event came, whatever the app makes of it."""

    at: float
    device: str
    request: str
    payload: str


class Linked(msgspec.Struct, frozen=True, tag_field="event", tag="linked"):
    """The app's own connection to the broker came up or was lost."""

    at: float
    up: bool


class Began(msgspec.Struct, frozen=True, tag_field="event", tag="began"):
    """Everything is up: times of the plan count from here."""

    at: float


class Ended(msgspec.Struct, frozen=True, tag_field="event", tag="ended"):
    """The app asks and listens no more."""

    at: float


AppEvent: TypeAlias = Began | Asked | Heard | Linked | Ended


# What is written about processes ----------------------------------------------------------------------------------


class Done(msgspec.Struct, frozen=True, tag_field="event", tag="process"):
    """Something was done to a process; the run ends all that still live with `ended`."""

    at: float
    role: Role
    name: str
    pid: int
    what: Literal["started", "killed", "frozen", "thawed", "ended"]


class Sampled(msgspec.Struct, frozen=True, tag_field="event", tag="sample"):
    """What a process took at a moment: resident memory in bytes, and open file descriptors."""

    at: float
    role: Role
    name: str
    pid: int
    rss: int
    files: int


ProcessEvent: TypeAlias = Done | Sampled


# Files ------------------------------------------------------------------------------------------------------------


class JsonLines:
    """A file of JSON lines that several threads may add to; each line is at the operating system when `add` returns."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._lock = threading.Lock()

    def add(self, event: AppEvent | LinkEvent | ProcessEvent) -> None:
        """Add one line; after `close` it is left out."""
        line = msgspec.json.encode(event) + b"\n"
        with self._lock:
            if not self._file.closed:
                self._file.write(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._file.close()


class Logs(msgspec.Struct, frozen=True):
    """All that was written in a run.

    Attributes:
        run: what was run.
        app: in the order of time.
        processes: what was done to them, all together, in the order of time.
        samples: what they took, likewise.
        links: by device, each in the order of time.
    """

    run: Run
    app: list[AppEvent]
    processes: list[Done]
    samples: list[Sampled]
    links: dict[str, list[LinkEvent]]


def write_run(folder: Path, run: Run) -> None:
    """Begin the log of a run.

    Raises:
        BenchError: the folder cannot be made, or holds the log of another run.
    """
    path = folder / "run.json"
    if path.exists():
        raise BenchError(f"{folder} holds the log of another run: give --out an empty folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(run)) + b"\n")
    except OSError as error:
        raise BenchError(f"the log cannot be written to {folder} ({error.strerror}): give another --out") from error


def read_logs(folder: Path) -> Logs:
    """Return what was written in a run.

    Raises:
        BenchError: a file is missing or is no such log.
    """
    run = _decode(folder / "run.json", _read(folder / "run.json"), _RUN)
    about = [event for path in sorted(folder.glob("process-*.jsonl")) for event in _lines(path, _PROCESS)]
    processes = _in_time([event for event in about if isinstance(event, Done)])
    samples = _in_time([event for event in about if isinstance(event, Sampled)])
    links = {path.stem.removeprefix("link-"): _in_time(_lines(path, _LINK)) for path in folder.glob("link-*.jsonl")}
    missing = set(run.plan.device_names) - set(links)
    if missing or not processes:
        what = f"the log of the link of {min(missing)}" if missing else "the logs of the processes"
        raise BenchError(f"{what} is missing in {folder}: give the folder that --out named in the run")
    return Logs(run, _in_time(_lines(folder / "app.jsonl", _APP)), processes, samples, links)


T = TypeVar("T")
_RUN: Final = msgspec.json.Decoder(Run)
_APP: Final[msgspec.json.Decoder[AppEvent]] = msgspec.json.Decoder(AppEvent)
_PROCESS: Final[msgspec.json.Decoder[ProcessEvent]] = msgspec.json.Decoder(ProcessEvent)
_LINK: Final[msgspec.json.Decoder[LinkEvent]] = msgspec.json.Decoder(LinkEvent)
E = TypeVar("E", AppEvent, Done, Sampled, LinkEvent)


def _in_time(events: list[E]) -> list[E]:
    return sorted(events, key=lambda event: event.at)


def _lines(path: Path, decoder: msgspec.json.Decoder[T]) -> list[T]:
    *lines, rest = _read(path).split(b"\n")
    events = [_decode(path, line, decoder, f"line {number} of ") for number, line in enumerate(lines, 1)]
    if rest:
        raise BenchError(f"the last line of {path} was cut short: the run did not end in good order")
    return events


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BenchError(
            f"{path} cannot be read ({error.strerror}): give --check the folder that --out named in a run"
        ) from error


def _decode(path: Path, data: bytes, decoder: msgspec.json.Decoder[T], where: str = "") -> T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BenchError(f"{where}{path} is not what `sled bench faults` writes: {error}") from error

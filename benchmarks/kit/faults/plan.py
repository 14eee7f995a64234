"""A plan of faults: what runs, what it is asked, and what goes wrong. A YAML or JSON file."""

from __future__ import annotations

import math
import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
import yaml
from msgspec import Meta

from benchmarks.kit.error import BenchError

DEFAULT: Final = Path(str(resources.files("benchmarks") / "plans" / "default.yaml"))

MOST_BYTES: Final = 65_536
MOST_DEPTH: Final = 8
"""Levels of nesting; a plan needs four."""

Positive: TypeAlias = Annotated[int, Meta(ge=1, le=10_000)]
Chance: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0, le=86_400)]
Span: TypeAlias = Seconds | Annotated[tuple[Seconds, ...], Meta(min_length=2, max_length=2)]
"""So many seconds, or a number of seconds drawn evenly from between two.

Not a tuple of two: msgspec 0.22 reads beyond the end of that type where its items and its other half have bounds.
"""

Role: TypeAlias = Literal["agent", "verifier", "broker"]

EXPLAINED: Final = """\
A plan is a YAML or JSON file; times are in seconds from when everything is up. What is left out is as here:

  devices: 20             agents, each behind a link of its own
  verifiers: 2
  capacity: 256           sessions that a verifier serves at once; it refuses more for now
  requests: 200           asked in turn of all devices, evenly over `seconds`, one at a time of each device
  tokens: 32              of an answer, at most
  sampled: 0.5            share of the requests that are sampled; the others are greedy
  temperature: 0.8        of those that are sampled, as are
  top_k: 0
  top_p: 0.95
  seconds: 240            over which requests and faults are spread
  patience: 300           seconds for which nothing may come before what is left counts as lost
  outage: stall           of the devices, as for `sled agent --outage`; with revise, the app takes text back
  persistence: false      whether the broker keeps its state on disk
  seed: 0                 of times, victims and sampling; --seed goes before it
  faults: []              a list, each of one of these kinds:

    - {fault: kill, role: agent}          SIGKILL, and a start after `seconds`; role: agent, verifier or broker
    - {fault: freeze, role: verifier}     SIGSTOP, and SIGCONT after `seconds`
    - {fault: cut}                        a device's link breaks for `seconds`; both sides know
    - {fault: hold}                       a device's link lets nothing through for `seconds`; nobody knows
    - {fault: delay, seconds: 0.05}       on all links, one way
    - {fault: loss, chance: 0.05}         MQTT messages lost on all links, both ways
    - {fault: duplication, chance: 0.05}  or coming twice

  The first four take `seconds` (a number, or [least, most] to draw from; default [1, 5]), one of `count` (that many, at
  times drawn from all of the run; default 1), `per_minute` or `at` (a list of times), and `victim` (a name such as
  device-3 or verifier-1; drawn if left out). The last three last for a `share` of the run (default 1), beginning at a
  time that is drawn, or from `begin` to `end`."""


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="fault"):
    pass


class _Struck(_Strict, frozen=True, kw_only=True):
    """A fault that strikes one victim.

    Attributes:
        seconds: how long it lasts.
        count, per_minute, at: how often or when.
        victim: name of the process, or of the device whose link it is; empty to draw one.
    """

    seconds: Span = (1.0, 5.0)
    count: Positive | None = None
    per_minute: Annotated[float, Meta(gt=0, le=600)] | None = None
    at: Annotated[tuple[Seconds, ...], Meta(min_length=1)] | None = None
    victim: str = ""

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.count, self.per_minute, self.at)) > 1:
            raise ValueError("give only one of `count`, `per_minute` and `at`")
        if isinstance(self.seconds, tuple) and self.seconds[0] > self.seconds[1]:
            raise ValueError("of the two `seconds` the first is the least")


class Kill(_Struck, frozen=True, kw_only=True, tag="kill"):
    """A process is killed, and started again after `seconds`."""

    role: Role


class Freeze(_Struck, frozen=True, kw_only=True, tag="freeze"):
    """A process stands still."""

    role: Role


class Cut(_Struck, frozen=True, kw_only=True, tag="cut"):
    """A link is broken, so that both sides know."""


class Hold(_Struck, frozen=True, kw_only=True, tag="hold"):
    """A link lets nothing through, and nobody knows."""


class _Lasting(_Strict, frozen=True, kw_only=True):
    """Something that all links do for a while.

    Attributes:
        share: of the run, beginning at a time that is drawn.
        begin, end: from when to when instead, in seconds.
    """

    share: Annotated[float, Meta(gt=0, le=1)] | None = None
    begin: Seconds | None = None
    end: Seconds | None = None

    def __post_init__(self) -> None:
        if (self.begin is None) != (self.end is None) or (self.share is not None and self.begin is not None):
            raise ValueError("give either `share`, or both `begin` and `end`")
        if self.begin is not None and self.end is not None and self.begin >= self.end:
            raise ValueError("`begin` is before `end`")


class Delay(_Lasting, frozen=True, kw_only=True, tag="delay"):
    """Everything takes longer, one way."""

    seconds: Annotated[float, Meta(ge=0, le=60)]

    @property
    def value(self) -> float:
        """What the links are set to."""
        return self.seconds


class Loss(_Lasting, frozen=True, kw_only=True, tag="loss"):
    """Messages are lost."""

    chance: Chance

    @property
    def value(self) -> float:
        """What the links are set to."""
        return self.chance


class Duplication(_Lasting, frozen=True, kw_only=True, tag="duplication"):
    """Messages come twice."""

    chance: Chance

    @property
    def value(self) -> float:
        """What the links are set to."""
        return self.chance


Fault: TypeAlias = Kill | Freeze | Cut | Hold | Delay | Loss | Duplication


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run; `EXPLAINED` says what the fields mean."""

    devices: Annotated[int, Meta(ge=1, le=1000)] = 20
    verifiers: Annotated[int, Meta(ge=1, le=100)] = 2
    capacity: Positive = 256
    requests: Positive = 200
    tokens: Annotated[int, Meta(ge=1, le=8192)] = 32
    sampled: Chance = 0.5
    temperature: Annotated[float, Meta(gt=0, le=100)] = 0.8
    top_k: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 0.95
    seconds: Annotated[float, Meta(gt=0, le=86_400)] = 240.0
    patience: Annotated[float, Meta(gt=0, le=86_400)] = 300.0
    outage: Literal["stall", "release", "revise"] = "stall"
    persistence: bool = False
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        """See that victims exist and times are within the run."""
        for number, fault in enumerate(self.faults):
            if isinstance(fault, _Struck):
                victims = self.victims(fault)
                if fault.victim and fault.victim not in victims:
                    known = victims[0] if len(victims) == 1 else f"{victims[0]} to {victims[-1]}"
                    raise ValueError(f"faults[{number}] names the victim {fault.victim!r}, but there is only {known}")
                times = fault.at or ()
            else:
                times = () if fault.end is None else (fault.end,)
            if any(time > self.seconds for time in times):
                raise ValueError(f"faults[{number}] is after the run, which takes {self.seconds:g} `seconds`")

    @property
    def device_names(self) -> tuple[str, ...]:
        """The names of the devices."""
        return tuple(f"device-{number}" for number in range(1, self.devices + 1))

    @property
    def verifier_names(self) -> tuple[str, ...]:
        """The names of the verifiers."""
        return tuple(f"verifier-{number}" for number in range(1, self.verifiers + 1))

    def victims(self, fault: Kill | Freeze | Cut | Hold) -> tuple[str, ...]:
        """Return whom a fault may strike."""
        if not isinstance(fault, Kill | Freeze) or fault.role == "agent":
            return self.device_names
        return self.verifier_names if fault.role == "verifier" else ("broker",)


def find_plan(name: str) -> Path:
    """Return the file of a plan: a path, or the name of one that comes with sled (`default`, `soak`)."""
    shipped = {path.stem: path for path in DEFAULT.parent.glob("*.yaml")}
    return shipped.get(name, Path(name))


def read_plan(path: Path) -> Plan:
    """Return the plan in a file.

    Raises:
        BenchError: it cannot be read, or is no plan; the sentence names file and field.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
        _bound(path, text)
        content = yaml.safe_load(text)
    except OSError as error:
        raise BenchError(
            f"the plan {path} cannot be read ({error.strerror}): give --plan a YAML or JSON file"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BenchError(f"the plan {path} is neither YAML nor JSON: {' '.join(str(error).split())}") from error
    except (ValueError, RecursionError) as error:  # such as a date that is none, or a file nested without end
        raise BenchError(f"the plan {path} holds a value that is none: {error}") from error
    if content is None:
        content = {}
    try:
        return msgspec.convert(content, Plan)
    except msgspec.ValidationError as error:
        raise BenchError(f"the plan {path}: {_said(str(error))}; `sled bench faults --help` explains plans") from error


def _bound(path: Path, text: bytes) -> None:
    """Refuse what no plan needs before anything is built of it: PyYAML takes seconds for a text nested without end.

    Raises:
        BenchError: it is too long, or nested too deeply.
        yaml.YAMLError, UnicodeDecodeError, ValueError: it is no YAML.
    """
    if len(text) > MOST_BYTES:
        raise BenchError(f"the plan {path} has more than {MOST_BYTES} bytes: is it a plan?")
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH:
            line = event.start_mark.line + 1 if event.start_mark is not None else "?"
            raise BenchError(f"the plan {path} is nested too deeply in line {line}")


def _said(error: str) -> str:
    """Say first where it was: "Expected `int` - at `$.faults[2].count`" is in msgspec's order."""
    found = re.fullmatch(r"(?P<what>.*) - at `\$(?:\.(?P<where>.*))?`", error, re.DOTALL)
    if found is None:
        return error
    return f"{found['where']}: {found['what']}" if found["where"] else found["what"]


def spread(count: int, seconds: float) -> list[tuple[float, float]]:
    """Divide the part of a run in which faults are drawn into equal parts.

    Nothing is drawn from the first and the last twentieth, so that there is something to strike and an end to see.
    """
    begin, end = 0.05 * seconds, 0.95 * seconds
    return [
        (begin + (end - begin) * number / count, begin + (end - begin) * (number + 1) / count)
        for number in range(count)
    ]


def times_of(fault: Kill | Freeze | Cut | Hold, seconds: float) -> list[tuple[float, float]]:
    """Return from when to when each strike of a fault may come, in a run of so many seconds."""
    if fault.at is not None:
        return [(time, time) for time in fault.at]
    if fault.per_minute is not None:
        return spread(max(1, math.floor(fault.per_minute * seconds / 60 + 0.5)), seconds)
    return spread(fault.count or 1, seconds)

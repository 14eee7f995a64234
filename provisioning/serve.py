"""`sled ca serve`: answers enrolment requests while it runs, and keeps the revocation list fresh."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, assert_never

from cryptography import x509
from msgspec import Struct

from broker.address import Addresses
from broker.client import Bridge
from broker.errors import BrokerError
from broker.mailbox import Mailbox, Stop
from broker.message import Message
from broker.tls import Tls
from provisioning.authority import LIFETIME
from provisioning.enrolment import Terms, decide
from provisioning.errors import ProvisioningError
from provisioning.turns import Turns
from schemas.enrolment import (
    CertificateIssued,
    EnrolmentRefused,
    answer_topic,
    asking_identity,
    encode_enrolment,
    request_topic,
)
from schemas.errors import InvalidTopic

if TYPE_CHECKING:
    from provisioning.authority import Authority
    from provisioning.authority_folder import AuthorityFolder
    from provisioning.enrolment import Decision
    from provisioning.registry import Registry
    from schemas.enrolment import EnrolmentAnswer

_log = logging.getLogger(__name__)

_REACHED_WITHIN: Final = 15.0
_MOST_WAITING: Final = 256
"""Requests; what comes while so many wait is dropped, and asked again."""
_REST: Final = 1.0
"""Seconds for which an identity that was answered is not heard: what it asks then it asks again (`_AGAIN_AFTER` of
`provisioning.exchange`). Each request costs a lock, the registry and its access files, whatever it says."""
_MOST_BYTES: Final = 65_536
_ANSWER_KEPT: Final = 300.0
"""Seconds for which a broker that speaks MQTT 5 keeps an answer for a machine that is away."""
_LIST_EVERY: Final = 3_600.0


class ServeOptions(Struct, frozen=True):
    """What `sled ca serve` was told.

    Attributes:
        address: of the broker, or of several.
        name: client id: the name in the operator's certificate.
        tls: the operator's identity.
        root: of all topics.
        lifetime: of the certificates it issues.
        end_after: seconds; None until `stop`.
        dry_run: say in the log what would be answered, and answer nothing.
    """

    address: Addresses
    name: str
    tls: Tls | None = None
    root: str = "sled/v1"
    lifetime: timedelta = LIFETIME
    end_after: float | None = None
    dry_run: bool = False


class EnrolmentServer:
    """Answers requests, one after another.

    Args:
        folder: of the authority.
        authority: with its key.
        options: see there.
    """

    def __init__(self, folder: AuthorityFolder, authority: Authority, options: ServeOptions) -> None:
        self._folder = folder
        self._authority = authority
        self._options = options
        self._items: Mailbox[Stop] = Mailbox(_MOST_WAITING)
        self._turns = Turns(_MOST_WAITING, _REST)
        self._bridge = Bridge(options.address, options.name, tls=options.tls, max_payload=_MOST_BYTES)
        self._bridge.subscribe(request_topic(options.root, "+"), self._take)

    def stop(self) -> None:
        """Ask it to end; callable from any thread and from a signal handler."""
        self._items.put(Stop())

    def run(self) -> None:
        """Answer until the time is over, or until `stop`.

        Raises:
            BrokerUnreachable: no broker lets it in when it begins.
        """
        with self._bridge as bridge:
            bridge.wait_up(_REACHED_WITHIN)
            _log.info("answering enrolment requests at %s", bridge.address)
            began = time.monotonic()
            end = None if self._options.end_after is None else began + self._options.end_after
            list_due = began
            while end is None or time.monotonic() < end:
                if time.monotonic() >= list_due:
                    self._renew_list()
                    list_due = time.monotonic() + _LIST_EVERY
                item = self._items.get(min(1.0, 1.0 if end is None else end - time.monotonic()))
                match item:
                    case Stop():
                        return
                    case Message():
                        self._answer(item)
                    case None:
                        pass
                    case _:
                        assert_never(item)

    def _take(self, message: Message) -> None:
        """Have a request wait for its answer, if it is its identity's turn; on the network thread."""
        if message.retain:  # a request is never retained; what is would be asked again at every start
            return
        try:
            identity = asking_identity(self._options.root, message.topic)
        except InvalidTopic as error:
            _log.warning("%s", error)
            return
        if self._turns.take(identity, time.monotonic()):
            self._items.deliver(message)
        else:
            _log.debug("%s: a request is dropped, since another has just been answered, or waits", identity)

    def _answer(self, message: Message) -> None:
        identity = asking_identity(self._options.root, message.topic)
        try:
            self._answer_to(identity, message.payload)
        finally:
            self._turns.end(identity, time.monotonic())

    def _answer_to(self, identity: str, payload: bytes) -> None:
        answer, name = self._decide(identity, payload)
        match answer:
            case CertificateIssued():
                _log.info("%s: a certificate was issued", name)
            case EnrolmentRefused(code=code, message=why):
                _log.warning("%s: refused (%s): %s", identity, code, why)
        if not self._options.dry_run:
            try:
                topic = answer_topic(self._options.root, identity)
                self._bridge.publish(topic, encode_enrolment(answer), expiry=_ANSWER_KEPT)
            except BrokerError as error:
                _log.warning("%s is not answered: %s", identity, error)

    def _decide(self, identity: str, payload: bytes) -> tuple[EnrolmentAnswer, str]:
        """Return the answer, and the name of the machine as far as it is known. A folder that is damaged is no end."""
        now = datetime.now(UTC)
        terms = Terms(x509.random_serial_number(), now, self._options.lifetime)

        def alter(registry: Registry) -> tuple[Registry, Decision]:
            decision = decide(registry, self._authority, identity, payload, terms)
            return decision.registry, decision

        try:
            decision = self._folder.change(alter, now=now, authority=self._authority, dry_run=self._options.dry_run)
        except ProvisioningError as error:
            _log.error("%s: %s", identity, error)
            sentence = "the operator's side could not write down what it would issue: tell the operator, and ask again"
            return EnrolmentRefused(None, "failed", sentence), identity
        return decision.answer, decision.name

    def _renew_list(self) -> None:
        try:
            self._folder.change(
                lambda registry: (registry, None),
                now=datetime.now(UTC),
                authority=self._authority,
                dry_run=self._options.dry_run,
            )
        except ProvisioningError as error:
            _log.error("the revocation list is not renewed: %s", error)

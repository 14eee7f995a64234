"""`sled ca serve`: answers enrolment requests while it runs, and keeps the revocation list and its own identity new."""

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
from provisioning import fleet
from provisioning.authority import LIFETIME
from provisioning.enrolment import Terms, decide
from provisioning.errors import ProvisioningError
from provisioning.identity_folder import IdentityFolder
from provisioning.machine import is_due
from provisioning.role import Role
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
_LOOK_EVERY: Final = 3_600.0
"""Seconds between looks at the revocation list and at the server's own certificate."""


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
        identity: the folder that `tls` is of, whose certificate the server renews; None for files that it leaves alone.
    """

    address: Addresses
    name: str
    tls: Tls | None = None
    root: str = "sled/v1"
    lifetime: timedelta = LIFETIME
    end_after: float | None = None
    dry_run: bool = False
    identity: IdentityFolder | None = None


def renew_own(
    folder: AuthorityFolder, authority: Authority, own: IdentityFolder, *, lifetime: timedelta, dry_run: bool = False
) -> None:
    """Renew the identity with which the server connects, if a third of its time or less is left, be it expired.

    Nobody else would: a fleet asks the server, and it cannot ask itself. What keeps it from it is only logged: the
    identity may be good for a month yet.

    Args:
        folder: of the authority.
        authority: with its key.
        own: the identity's; one that is not an operator's is left as it is.
        lifetime: of the new certificate.
        dry_run: only say it in the log.
    """
    now = datetime.now(UTC)
    try:
        present = own.identity()
        if present is None or present.role is not Role.OPERATOR or not is_due(present.certificate, now):
            return
        fleet.renew_identity(folder, authority, own, now=now, lifetime=lifetime, dry_run=dry_run)
    except ProvisioningError as error:
        _log.error("the operator's own certificate is not renewed: %s", error)
    else:
        _log.info("the certificate of %r %s renewed", present.name, "would be" if dry_run else "was")


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
        self._shown: x509.Certificate | None = None
        self._bridge = self._made()

    def stop(self) -> None:
        """Ask it to end; callable from any thread and from a signal handler."""
        self._items.put(Stop())

    def run(self) -> None:
        """Answer until the time is over, or until `stop`.

        Raises:
            BrokerUnreachable: no broker lets it in when it begins.
        """
        self._bridge.start()
        try:
            self._bridge.wait_up(_REACHED_WITHIN)
            _log.info("answering enrolment requests at %s", self._bridge.address)
            self._serve()
        finally:
            self._bridge.stop()

    def _serve(self) -> None:
        began = time.monotonic()
        end = None if self._options.end_after is None else began + self._options.end_after
        self._renew_list()
        look_at = began + _LOOK_EVERY
        while end is None or time.monotonic() < end:
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + _LOOK_EVERY
                self._renew_list()
                self._look_after_itself()
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

    def _made(self) -> Bridge:
        """Return a new bridge; it reads the identity's files now, and never again."""
        options, certificate = self._options, self._certificate()
        bridge = Bridge(options.address, options.name, tls=options.tls, max_payload=_MOST_BYTES)
        bridge.subscribe(request_topic(options.root, "+"), self._take)
        self._shown = certificate
        return bridge

    def _certificate(self) -> x509.Certificate | None:
        own = self._options.identity
        return None if own is None else own.require_identity().certificate

    def _look_after_itself(self) -> None:
        """Renew the server's own certificate if it is time to, and connect with the one that the folder holds now."""
        options = self._options
        if options.identity is None:
            return
        renew_own(self._folder, self._authority, options.identity, lifetime=options.lifetime, dry_run=options.dry_run)
        try:
            if self._certificate() == self._shown:
                return
            before, self._bridge = self._bridge, self._made()
        except (ProvisioningError, OSError) as error:
            _log.error("the operator's identity cannot be used, so the connection stays as it is: %s", error)
            return
        before.stop()  # a broker lets a name in once at a time
        self._bridge.start()
        _log.info("connecting anew, with the certificate that %s holds now", options.identity.path)

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

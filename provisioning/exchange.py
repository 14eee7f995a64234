"""Carries an enrolment request to the operator's side over MQTT, and the answer back."""

from __future__ import annotations

import logging
import queue
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from broker.address import parse_addresses
from broker.client import Bridge
from broker.errors import BrokerUnreachable
from provisioning.enrolment import read_answer
from provisioning.errors import ProvisioningError
from provisioning.identity_folder import IdentityFolder
from provisioning.role import Role
from schemas.enrolment import answer_topic, encode_enrolment, request_topic
from schemas.errors import WireError
from schemas.topics import Topics

if TYPE_CHECKING:
    from broker.message import Message
    from broker.tls import Tls
    from provisioning.identity_folder import Identity, Place
    from schemas.enrolment import EnrolmentRequest

_log = logging.getLogger(__name__)

_REACHED_WITHIN: Final = 15.0
_AGAIN_AFTER: Final = 5.0
_MOST_WAITING: Final = 100
_MOST_BYTES: Final = 65_536


class MqttAsk:
    """Asks over MQTT; see `provisioning.machine.Ask`.

    Args:
        timeout: seconds to wait for the answer.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout

    def __call__(self, place: Place, identity: Identity, request: EnrolmentRequest) -> str:
        """Ask, connected with `identity`, whose key stays in a file of this user's for as long as it takes.

        Raises:
            Refused: the operator's side says no.
            ProvisioningError: no broker lets this identity in, or nobody answers.
        """
        with tempfile.TemporaryDirectory(prefix="sled-enroll-") as folder:
            own = IdentityFolder(Path(folder))
            own.install(identity, place)
            return self._ask(place, identity, request, own.tls())

    def _ask(self, place: Place, identity: Identity, request: EnrolmentRequest, tls: Tls) -> str:
        name, renewing = identity.name, identity.role is Role.DEVICE
        answers: queue.Queue[Message] = queue.Queue(_MOST_WAITING)
        bridge = Bridge(parse_addresses(place.broker), name, clean=not renewing, tls=tls, max_payload=_MOST_BYTES)
        if renewing:  # the agent's session: asks that wait for it stay with the broker
            bridge.subscribe(Topics(place.root).ask(name), lambda _: None, acknowledge="manual")

        def take(message: Message) -> None:
            if not answers.full():
                answers.put_nowait(message)

        bridge.subscribe(answer_topic(place.root, name), take)
        with bridge:
            try:
                bridge.wait_up(min(_REACHED_WITHIN, self._timeout))
            except BrokerUnreachable as error:
                raise ProvisioningError(
                    f"{error}. A broker says no more than that to a certificate that was revoked, has expired, or is "
                    "not of its authority: if it runs, ask the operator"
                ) from error
            return self._exchange(bridge, place, name, request, answers)

    def _exchange(
        self, bridge: Bridge, place: Place, name: str, request: EnrolmentRequest, answers: queue.Queue[Message]
    ) -> str:
        """Ask, again and again, since nobody may have listened the time before; the same answer comes each time."""
        topic, payload = request_topic(place.root, name), encode_enrolment(request)
        give_up = time.monotonic() + self._timeout
        while (left := give_up - time.monotonic()) > 0:
            bridge.publish(topic, payload, expiry=_AGAIN_AFTER)
            certificate = self._await(answers, request.id, min(_AGAIN_AFTER, left))
            if certificate is not None:
                return certificate
        raise ProvisioningError(
            f"nobody answered within {self._timeout:.0f} s: is `sled ca serve` running at the operator's, and may this "
            "identity publish to its enrolment topic? The request can be made again"
        )

    def _await(self, answers: queue.Queue[Message], request: str, within: float) -> str | None:
        """Return the certificate that comes back within so many seconds, None if none does."""
        give_up = time.monotonic() + within
        while (left := give_up - time.monotonic()) > 0:
            try:
                message = answers.get(timeout=left)
            except queue.Empty:
                break
            try:
                certificate = read_answer(message.payload, request)
            except WireError as error:
                _log.warning("an answer was ignored: %s", error)
                continue
            if certificate is not None:
                return certificate
        return None

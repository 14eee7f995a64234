"""The one bridge between a role and its broker: paho-mqtt with its traps closed.

Read in paho-mqtt 2.2: an exception in a callback ends the network thread while `is_connected()` stays true; waiting
inside a callback never ends; subscriptions of a clean session are gone after a reconnect; acknowledging by hand is all
or nothing; why a connection could not be opened is not told; over MQTT 5 a broker's Receive Maximum is not kept to.
"""

from __future__ import annotations

import logging
import random
import socket
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, ParamSpec, Self

from paho.mqtt.enums import MQTTErrorCode

from broker.address import check_addresses
from broker.caretaker import Caretaker
from broker.errors import BrokerUnreachable, OutgoingQueueFull, SubscriptionRefused
from broker.inbox import Inbox
from broker.limits import MAX_INFLIGHT_MESSAGES, MAX_OUTGOING_MESSAGES, MAX_PAYLOAD_BYTES
from broker.message import Message, Outgoing
from broker.outbox import Outbox
from broker.paho_client import connect_options, make_paho, publish_options, send_at_once
from broker.reasons import lost, refused, returning, unreachable
from broker.route import Route
from broker.visit import visit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import paho.mqtt.client as paho
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

    from broker.address import Addresses, BrokerAddress
    from broker.errors import BrokerError
    from broker.inbox import Acknowledge
    from broker.message import Will
    from broker.receipt import Receipt
    from broker.tls import Tls

_log = logging.getLogger(__name__)

_P = ParamSpec("_P")

# A broker answers an UNSUBSCRIBE even of a filter nobody has (MQTT-3.10.4-5); nothing is ever published here.
_BARRIER: Final = "sled/barrier"


class Bridge:
    """One MQTT connection that comes back by itself, at another broker if its own does not.

    It is up once the broker has accepted the connection *and* answered every subscription; `on_up(session_present)`
    is then called, where a role publishes its retained state. All callbacks run on the network thread and must only
    enqueue; what they raise is logged and counted in `callback_errors`. Messages of a resumed session may arrive
    before `on_up`. A bridge is started once; after `stop` it is spent.

    With several addresses the connection moves between them as `broker.route` says; to a role that is a connection lost
    and made again. What it retained at a broker that it has left is cleared by a visitor, a short clean connection
    under the client id with `.visit` behind it.

    Args:
        address: where the broker is, with user name and password if it wants them; or several, the preferred one first.
        client_id: the name of the MQTT session; may be empty only if `clean`.
        clean: whether the broker forgets subscriptions and waiting messages when this client disconnects.
        will: what the broker publishes when this client vanishes.
        tls: the files to use if `address.tls`, or to use TLS in any case.
        keepalive: seconds of silence after which broker and client check on each other.
        reconnect_delay: seconds before the first and, doubling, between the last attempts; the first is stretched
            at random by up to a half, so that a fleet does not return all at once.
        patience: seconds after which the next of several addresses is tried.
        first_patience: the same, until there has been a connection; None for no difference.
        look_every: seconds between looks at the other addresses.
        retains: filters of the topics that this client alone retains messages at.
        max_outgoing: QoS 1 messages that may wait or be unacknowledged.
        max_payload: longest payload sent, in bytes.
        quiet: do not warn in the log that the connection is down.
        on_up: called each time the connection is up, with whether the broker kept the session.
        on_down: called with a sentence when the connection is lost, and for each new reason why it does not return.
        on_error: called with what went wrong without ending the connection, such as a refused subscription.
    """

    def __init__(
        self,
        address: Addresses,
        client_id: str = "",
        *,
        clean: bool = True,
        will: Will | None = None,
        tls: Tls | None = None,
        keepalive: int = 30,
        reconnect_delay: tuple[float, float] = (1.0, 30.0),
        patience: float = 10.0,
        first_patience: float | None = None,
        look_every: float = 5.0,
        retains: Sequence[str] = (),
        max_outgoing: int = MAX_OUTGOING_MESSAGES,
        max_payload: int = MAX_PAYLOAD_BYTES,
        quiet: bool = False,
        on_up: Callable[[bool], None] | None = None,
        on_down: Callable[[str], None] | None = None,
        on_error: Callable[[BrokerError], None] | None = None,
    ) -> None:
        addresses = check_addresses(address)
        self.client_id = client_id
        self.callback_errors = 0
        self._clean = clean
        self._tls = tls
        self._keepalive = keepalive
        self._retains = tuple(retains)
        self._max_payload = max_payload
        self._loudness = logging.DEBUG if quiet else logging.WARNING
        self._on_up, self._on_down, self._on_error = on_up, on_down, on_error
        self._inbox = Inbox(self._call, self._send_acknowledgement)
        self._outbox = Outbox(self._hand_to_paho, max_outgoing)
        self._network_thread: int | None = None

        self._state = threading.Condition()  # guards what follows
        self._unanswered: dict[int, Sequence[str]] = {}  # message id of a SUBSCRIBE → its filters
        self._phase: Literal["new", "down", "connected", "up", "leaving", "stopped"] = "new"
        self._announced = False  # up, and on_up has returned
        self._session_present = False
        self._refusal: str | None = None
        self._down_reason: str | None = None
        self._goal: int | None = None  # index of the address that a connection is left for
        self._route = Route(
            addresses,
            patience=patience,
            first_patience=first_patience,
            delays=reconnect_delay,
            stretch=lambda: random.uniform(1.0, 1.5),  # noqa: S311 - spreads load, keeps no secret
        )

        self._client = make_paho(addresses[0], client_id, clean=clean, will=will, tls=tls, max_outgoing=max_outgoing)
        self._connect_callbacks()
        self._caretaker = Caretaker(
            self._route, self._state, every=look_every, visit=self._visit, move=self._leave_for, cut=self._cut
        )

    # What a role calls

    @property
    def address(self) -> BrokerAddress:
        """The broker in use, or tried, now."""
        return self._route.address

    @property
    def is_up(self) -> bool:
        """Whether the connection is up now."""
        return self._phase == "up"

    @property
    def bytes_sent(self) -> int:
        """Payload bytes taken by `publish` so far."""
        return self._outbox.payload_bytes

    @property
    def bytes_received(self) -> int:
        """Payload bytes received so far."""
        return self._inbox.payload_bytes

    def start(self) -> None:
        """Begin connecting, and go on until it works; returns at once."""
        with self._state:
            if self._phase != "new":
                raise RuntimeError("this bridge was started before: make a new one")
            self._phase = "down"
            self._route.begin(time.monotonic())
            self._connect()
        self._client.loop_start()
        if len(self._route.addresses) > 1:
            self._caretaker.start()

    def subscribe(
        self,
        topic_filter: str,
        handler: Callable[[Message], None],
        *,
        qos: int = 1,
        acknowledge: Acknowledge = "auto",
    ) -> None:
        """Call `handler` on the network thread for every message that matches, now and after each reconnect.

        With `acknowledge="manual"` the broker keeps a message until `Message.acknowledge`, and sends it again on the
        next connect of a session that is not clean. With `"auto"` it is acknowledged when `handler` returns or
        raises. A second call for the same filter replaces the first.

        Raises:
            ValueError: the filter breaks the rules for wildcards (MQTT 3.1.1, 4.7.1), or the QoS is neither 0 nor 1.
        """
        with self._state:
            self._inbox.add(topic_filter, handler, qos, acknowledge)
            if self._phase in ("connected", "up"):  # else with all others, once connected
                _, mid = self._client.subscribe(topic_filter, qos)
                if mid is not None:
                    self._unanswered[mid] = (topic_filter,)

    def unsubscribe(self, topic_filter: str) -> None:
        """Stop receiving what matches this very filter."""
        with self._state:
            self._inbox.remove(topic_filter)
            if self._phase in ("connected", "up"):
                self._client.unsubscribe(topic_filter)

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        expiry: float | None = None,
        response_topic: str | None = None,
        correlation: bytes | None = None,
        receipt: Receipt | None = None,
    ) -> None:
        """Send a message; never blocks, works from any thread and inside handlers.

        While the connection is down QoS 1 waits for it, in order, and QoS 0 is dropped. `expiry`, `response_topic` and
        `correlation` are those of `broker.message.Outgoing`; over MQTT 3.1.1 they are left out.

        A broker that does not acknowledge a message gets it again after the next connect, and not before
        (MQTT-4.4.0-1). Until then `flush` waits for it in vain; a `receipt` tells of its own message alone.

        Raises:
            OutgoingQueueFull: too many messages wait for the broker; this one was not taken.
            PayloadTooLarge: the payload is longer than `max_payload`.
            BrokerUnreachable: the bridge was stopped.
            ValueError: a topic is empty, too long or contains a wildcard, the QoS is neither 0 nor 1, or the expiry is
                not above 0.
        """
        message = Outgoing(topic, payload, qos, retain, expiry, response_topic, correlation, receipt)
        message.check(self._max_payload)
        if self._phase == "stopped":
            raise BrokerUnreachable(f"the bridge to {self.address} was stopped: nothing more is sent to {topic!r}")
        self._outbox.put(message)

    def wait_up(self, timeout: float) -> None:
        """Wait until the connection is up and `on_up` has returned.

        Raises:
            BrokerUnreachable: it was not within `timeout` seconds; the sentence says why.
            RuntimeError: called on the network thread, which would wait for itself.
        """
        self._forbid_network_thread("wait_up")
        with self._state:
            if not self._state.wait_for(lambda: self._announced or self._phase == "stopped", timeout):
                raise BrokerUnreachable(self._down_reason or unreachable(self.address, None))
            if not self._announced:
                raise BrokerUnreachable(f"the bridge to {self.address} was stopped")

    def flush(self, timeout: float) -> bool:
        """Wait until the broker has acknowledged every message; False if it had not within `timeout` seconds.

        Raises:
            RuntimeError: called on the network thread, which would wait for itself.
        """
        self._forbid_network_thread("flush")
        return self._outbox.wait_empty(timeout)

    def stop(self, timeout: float = 5.0) -> None:
        """Send what waits if the connection is up, at most `timeout` seconds long, then disconnect without a will.

        Raises:
            RuntimeError: called on the network thread, which would wait for itself.
        """
        self._forbid_network_thread("stop")
        if self.is_up and not self.flush(timeout):
            _log.warning("%s: stopped before the broker acknowledged every message", self.address)
        with self._state:
            self._phase = "stopped"
            self._announced = False
            self._state.notify_all()
        self._caretaker.stop()
        self._outbox.close()
        self._client.disconnect()
        with suppress(AttributeError):  # paho's thread may end between its look and its join
            self._client.loop_stop()
        # paho closes this pair only in __del__, and a bridge is part of cycles.
        self._client._reset_sockets(sockpair_only=True)
        self._inbox.clear()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # What paho calls, on the network thread

    def _connect_callbacks(self) -> None:
        client = self._client
        client.on_pre_connect = self._guarded(self._before_connect)
        client.on_socket_open = self._guarded(send_at_once)
        client.on_connect = self._guarded(self._connected)
        client.on_connect_fail = self._guarded(self._connect_failed)
        client.on_disconnect = self._guarded(self._disconnected)
        client.on_subscribe = self._guarded(self._subscribed)
        client.on_unsubscribe = self._guarded(self._unsubscribed)
        client.on_message = self._guarded(self._received)
        client.on_publish = self._guarded(self._published)

    def _before_connect(self, _client: paho.Client, _userdata: object) -> None:
        self._network_thread = threading.get_ident()

    def _connected(
        self,
        client: paho.Client,
        _userdata: object,
        flags: paho.ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self._refusal = refused(self.address, str(reason))
            return
        with self._state:
            if self._phase == "stopped":  # while the socket was being opened
                client.disconnect()
                return
            # More in flight at once would end the connection (MQTT 5, 3.3.4); paho has no other way to change it now.
            most = min(MAX_INFLIGHT_MESSAGES, getattr(properties, "ReceiveMaximum", MAX_INFLIGHT_MESSAGES))
            client._max_inflight_messages = most
            self._phase = "connected"
            self._session_present = flags.session_present
            filters = self._inbox.filters()
            # Without filters any answer will do: paho sends again what was unacknowledged only after this callback.
            mid = client.subscribe(filters)[1] if filters else client.unsubscribe(_BARRIER)[1]
            if mid is not None:
                self._unanswered[mid] = [name for name, _ in filters]

    def _connect_failed(self, _client: paho.Client, _userdata: object) -> None:
        # paho keeps the reason to itself, but calls this while it handles the exception.
        error = sys.exc_info()[1]
        with self._state:
            if self._phase == "stopped":
                return
            sentence = unreachable(self.address, error)
            self._connect_after(self._route.failed(time.monotonic()))
        self._report_down(sentence)

    def _disconnected(
        self, _client: paho.Client, _userdata: object, _flags: object, reason: ReasonCode, *_: object
    ) -> None:
        with self._state:
            phase = self._phase
            sentence, self._refusal = self._refusal or lost(self.address, str(reason)), None
            if phase != "stopped":
                self._phase = "down"
                sentence = self._go_on(phase, sentence)
            self._announced = False
            self._unanswered.clear()
            self._inbox.new_connection()  # nothing of the old one may be acknowledged any more
        self._outbox.close()
        if phase != "stopped":
            self._report_down(sentence)

    def _go_on(self, phase: str, sentence: str) -> str:
        """Prepare the next attempt, here or elsewhere; return why the connection is down."""
        now, left = time.monotonic(), self.address
        if phase == "leaving" and self._goal is not None:
            self._route.move(self._goal, now)
            sentence, delay = returning(self.address, left), 0.0
        elif phase in ("up", "leaving"):
            delay = self._route.lost(now, linger=2 * self._keepalive)
        else:
            delay = self._route.failed(now)
        self._goal = None
        self._connect_after(delay)
        return sentence

    def _subscribed(
        self, _client: paho.Client, _userdata: object, mid: int, reasons: list[ReasonCode], *_: object
    ) -> None:
        with self._state:
            filters = self._unanswered.pop(mid, ())
        for topic_filter, reason in zip(filters, reasons, strict=False):
            if reason.is_failure:
                error = SubscriptionRefused(topic_filter)
                _log.error("%s: %s", self.address, error)
                if self._on_error is not None:
                    self._call(self._on_error, error)
        self._go_up_if_answered()

    def _unsubscribed(self, _client: paho.Client, _userdata: object, mid: int, *_: object) -> None:
        with self._state:
            self._unanswered.pop(mid, None)
        self._go_up_if_answered()

    def _published(self, _client: paho.Client, _userdata: object, mid: int, *_: object) -> None:
        self._outbox.acknowledged(mid)

    def _received(self, _client: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
        properties = message.properties  # None over MQTT 3.1.1
        self._inbox.receive(
            Message(
                message.topic,
                bytes(message.payload),
                message.qos,
                message.retain,
                getattr(properties, "ResponseTopic", None),
                getattr(properties, "CorrelationData", None),
            ),
            message.mid,
        )

    # Inside

    def _call(self, callback: Callable[_P, None], *args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            callback(*args, **kwargs)
        except Exception:  # noqa: BLE001 - whatever it is, the network thread must live
            self.callback_errors += 1
            _log.exception("%s: a callback failed; the connection goes on", self.address)

    def _guarded(self, callback: Callable[_P, None]) -> Callable[_P, None]:
        return partial(self._call, callback)

    def _go_up_if_answered(self) -> None:
        with self._state:
            if self._phase != "connected" or self._unanswered:
                return
            self._phase = "up"
            self._down_reason = None
            self._route.connected(time.monotonic())
        self._outbox.open()
        if self._on_up is not None:
            self._call(self._on_up, self._session_present)
        with self._state:
            self._announced = self._phase == "up"
            self._state.notify_all()

    def _report_down(self, sentence: str) -> None:
        with self._state:
            if sentence == self._down_reason:  # said before, and nothing has changed since
                return
            self._down_reason = sentence
        _log.log(self._loudness, "%s", sentence)
        if self._on_down is not None:
            self._call(self._on_down, sentence)

    def _send_acknowledgement(self, mid: int) -> None:
        self._client.ack(mid, 1)

    def _hand_to_paho(self, message: Outgoing) -> int | None:
        options = publish_options(message) if self.address.mqtt5 else None
        info = self._client.publish(message.topic, message.payload, message.qos, message.retain, options)
        if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
            raise OutgoingQueueFull(
                f"the broker at {self.address} has not acknowledged the messages before it, so the one to "
                f"{message.topic!r} was not taken: wait until it has, or publish less"
            )
        if message.receipt is not None:
            message.receipt.watch(info)
        # MQTT_ERR_NO_CONN: the connection was lost this moment. paho has queued the message if its QoS is 1.
        lost_now = info.rc == MQTTErrorCode.MQTT_ERR_NO_CONN and message.qos == 0
        return None if lost_now else info.mid

    def _connect(self) -> None:
        """Have paho's next attempt go to the address of the route."""
        address = self.address
        self._client.username_pw_set(address.username, address.password)
        options = connect_options(clean=self._clean) if address.mqtt5 else {}
        self._client.connect_async(address.host, address.port, self._keepalive, **options)

    def _connect_after(self, delay: float) -> None:
        self._client.reconnect_delay_set(delay, delay)  # type: ignore[arg-type]  # floats work
        self._connect()

    # What the caretaker calls, on its own thread

    def _visit(self, address: BrokerAddress, ended: threading.Event) -> bool:
        visitor = Bridge(address, f"{self.client_id}.visit" if self.client_id else "", tls=self._tls, quiet=True)
        return visit(visitor, self._retains, ended, unless=lambda: self.address == address)

    def _leave_for(self, index: int) -> None:
        """Close the connection, so that it comes back at another address."""
        self.flush(1.0)
        with self._state:
            if self._phase != "up":
                return
            self._phase, self._goal = "leaving", index
            self._client.disconnect()

    def _cut(self) -> None:
        """End an attempt that hangs."""
        sock = self._client.socket()
        if sock is not None:
            with suppress(OSError):
                # Not the method of an SSLSocket, which would pull TLS from under the network thread.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # type: ignore[arg-type]  # no web socket here

    def _forbid_network_thread(self, what: str) -> None:
        if threading.get_ident() == self._network_thread:
            raise RuntimeError(f"{what} would wait for the network thread it is called on: call it from another one")

"""What can go wrong between a role and its broker. Every message is a sentence for the person who reads it."""


class BrokerError(Exception):
    """The base of every error of this room."""


class BrokerStartError(BrokerError):
    """A broker could not be started here."""


class BrokerUnreachable(BrokerError):
    """No broker answers at the address, or it refused the connection."""


class SubscriptionRefused(BrokerError):
    """The broker answered a SUBSCRIBE with return code 128 (MQTT 3.1.1, 3.9.3)."""

    def __init__(self, topic_filter: str) -> None:
        super().__init__(
            f"the broker refused the subscription to {topic_filter!r}: "
            "check what this client may read in the broker's access rules"
        )
        self.topic_filter = topic_filter


class OutgoingQueueFull(BrokerError):
    """As many messages as allowed wait for the broker; the one given was not taken."""


class PayloadTooLarge(BrokerError):
    """A payload is longer than the bridge sends."""

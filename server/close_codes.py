"""WebSocket close codes, as this server uses them: RFC 6455's, and those of protocol v1."""

from typing import Final

NORMAL: Final = 1000
PROTOCOL_ERROR: Final = 1002
BINARY_FRAME: Final = 1003
NOT_UTF8: Final = 1007
POLICY: Final = 1008
TOO_BIG: Final = 1009
INTERNAL: Final = 1011
RESTART: Final = 1012
TRY_AGAIN: Final = 1013

# Protocol v1's own: clients connect again after 4000 to 4499, and do not after 4500 to 4999.

EXPIRED: Final = 4001
SLOW: Final = 4002
GAP: Final = 4003
"""Sent by clients."""
NO_PONG: Final = 4004
UNAUTHENTICATED: Final = 4500
FORBIDDEN: Final = 4501
PROTOCOL_VIOLATION: Final = 4502
TOO_MANY_CONNECTIONS: Final = 4504

"""WebSocket close codes: RFC 6455's, as this server uses them."""

from typing import Final

NORMAL: Final = 1000
BINARY_FRAME: Final = 1003
POLICY: Final = 1008
TOO_BIG: Final = 1009
INTERNAL: Final = 1011
RESTART: Final = 1012
OVERLOADED: Final = 1013

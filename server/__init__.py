"""What the outside touches: configuration, HTTP, WebSocket. Knows no SQL."""

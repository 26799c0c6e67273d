"""What the outside touches: configuration, HTTP, WebSocket. Knows no SQL.

clients ────> app: websocket, ask_handler, event_stream, thread_handlers ──┐
Prometheus ─> app: metrics_handler <── metrics (plain numbers)             ├──> node ──> actors, storage
operators ──> admin_server (a socket of the file system): admin_handlers ──┘
"""

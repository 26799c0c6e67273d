"""What the outside touches: configuration, HTTP, WebSocket. Knows no SQL.

    clients ────> app: websocket, ask_handler, event_stream, thread_handlers ──┐
    Prometheus ─> app: metrics_handler <── metrics (plain numbers)             ├──> node ──> actors, storage
    operators ──> admin_server (a socket of the file system): admin_handlers ──┘

A process:

    __main__ ──> main (database, node, sockets, signals)
                  ├──> config ──> setting_parsers          logs, event_loop, garbage, open_files, loop_watch
                  ├──> listener (the HTTP server) ──> app
                  └──> node ──> connections, intake, loop_reads, thread_reads, readiness, operators
                            ──> metrics ──> histogram, metrics_help, loop_lag; layer_settings
                            ──> tracing ──> span_records, awaited_ends; otel and otel_session: OpenTelemetry's SDK

A request, and what it becomes:

    app ──> gate (who may come in) ──> auth            json_handler, user_handler: what handlers share
            websocket ──> websocket_protocol, ping_wheel
                └──> client: bare_client ──> bare_frames  ──> frame_decoder, frames ──┐
                             v1_client   ──> v1_requests  ──> frame_rate              ├──> a message to an actor
            ask_handler, event_stream, admin_connection ──────────────────────────────┘

And what comes back:

    DeliveryActor ──> connections ──> connection, thread_connection ──> bare_frames, v1_frames ──> a socket, close_codes
"""

"""What runs a conversation: actors and agents. Knows no socket and no SQL."""

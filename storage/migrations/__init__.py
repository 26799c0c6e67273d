"""Schema migrations: one file each, applied in order, forward only, never changed once released."""

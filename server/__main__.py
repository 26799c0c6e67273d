"""`python -m server`: the same as `callboard serve` with its settings from the environment only."""

import os
import sys

from actors.agents.agents_file import AgentsFileError
from server.config import ConfigError, load_settings
from server.main import serve
from storage.errors import StorageError

if __name__ == "__main__":
    try:
        serve(load_settings({}, os.environ), os.environ)
    except (ConfigError, AgentsFileError, StorageError) as error:
        sys.exit(f"callboard: {error}")

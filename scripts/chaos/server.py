"""A server of a run: the production code with what the witness needs to know, and with a bug if one is planted.

python -m scripts.chaos.server [--bug BUG] serve ...
"""

import sys

from scripts import cli
from scripts.chaos.bugs import BUGS
from scripts.chaos.instruments import tell_epochs
from scripts.simulation.bugs import Bug

if __name__ == "__main__":
    tell_epochs()
    if sys.argv[1] == "--bug":
        BUGS[Bug(sys.argv.pop(2))]()
        del sys.argv[1]
    cli.main()

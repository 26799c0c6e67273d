# Sourced by serve, test and check: finds a Python 3.11 or newer and sets $python and $root.
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P) || exit 1
python=
for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python3.14; do
    if [ -n "$candidate" ] &&
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "callboard: needs Python 3.11 or newer; install one, or name it: PYTHON=/path/to/python3.12 $0" >&2
    exit 1
fi

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CORE = Path(__file__).parent / "js" / "core.test.mjs"


def test_pure_core_of_the_javascript_client_holds() -> None:
    node = shutil.which("node")
    if node is None:
        assert os.environ.get("NODE_TESTS") != "required", "needs Node 20 or later in PATH"
        pytest.skip("needs Node 20 or later in PATH")
    done = subprocess.run([node, "--test", str(CORE)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr

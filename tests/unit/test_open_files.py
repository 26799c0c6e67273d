from resource import RLIM_INFINITY

import pytest

from server.open_files import choose_limit


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "chosen"),
    [
        (1024, 4096, 1000, 1024),
        (1024, 4096, 2000, 2000),
        (1024, 4096, 9000, 4096),
        (1024, RLIM_INFINITY, 9000, 9000),
        (RLIM_INFINITY, RLIM_INFINITY, 9000, RLIM_INFINITY),
        (4096, 4096, 9000, 4096),
    ],
)
def test_limit_is_raised_as_far_as_it_is_needed_and_allowed(soft: int, hard: int, wanted: int, chosen: int) -> None:
    assert choose_limit(soft, hard, wanted) == chosen

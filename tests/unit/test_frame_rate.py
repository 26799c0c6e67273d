from server.frame_rate import FrameRate


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_burst_is_admitted_at_once_and_then_the_rate() -> None:
    clock = Clock()
    rate = FrameRate(8.0, 3, clock)
    assert [rate.admit() for _ in range(5)] == [True, True, True, False, False]
    clock.now_s += 0.125
    assert [rate.admit() for _ in range(2)] == [True, False]


def test_quiet_client_saves_up_no_more_than_a_burst() -> None:
    clock = Clock()
    rate = FrameRate(10.0, 3, clock)
    clock.now_s += 3600.0
    assert sum(rate.admit() for _ in range(100)) == 3


def test_refused_frames_cost_nothing() -> None:
    clock = Clock()
    rate = FrameRate(1.0, 1, clock)
    admitted = 0
    for _ in range(100):
        admitted += rate.admit()
        clock.now_s += 0.125
    assert admitted == 13  # at once, and one for each of twelve seconds


def test_client_is_told_once_a_second() -> None:
    clock = Clock()
    rate = FrameRate(10.0, 3, clock)
    assert [rate.should_complain() for _ in range(3)] == [True, False, False]
    clock.now_s += 1.0
    assert [rate.should_complain() for _ in range(2)] == [True, False]

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from actors.live_sessions import LiveSessions
from actors.loop_cell import LoopAddress

KEYS = st.sampled_from(["a", "b", "c", "d"])


class LiveSessionsAsALongList(RuleBasedStateMachine):
    """The books beside a list that is searched from the front: key, sent, idle since."""

    def __init__(self) -> None:
        super().__init__()
        self.live = LiveSessions()
        self.model: dict[str, tuple[int, float | None]] = {}
        self.now_s = 0.0

    @rule(key=KEYS)
    def add(self, key: str) -> None:
        if key not in self.model:
            self.live.add(key, LoopAddress("/A"))
            self.model[key] = (0, None)

    @rule(key=KEYS)
    def forward(self, key: str) -> None:
        if key in self.model:
            live = self.live.get(key)
            assert live is not None
            self.live.count_forwarded(live)
            self.model[key] = (self.model[key][0] + 1, None)

    @rule(key=KEYS, unread=st.sampled_from([0, 0, 1]))
    def report_idle(self, key: str, unread: int) -> None:
        if key in self.model:
            live = self.live.get(key)
            assert live is not None
            self.now_s += 1
            sent = self.model[key][0]
            assert self.live.mark_idle(live, sent - unread, self.now_s) is (unread == 0)
            if unread == 0:
                self.model[key] = (sent, self.now_s)

    @rule(key=KEYS)
    def remove(self, key: str) -> None:
        if key in self.model:
            live = self.live.get(key)
            assert live is not None
            self.live.remove(live)
            assert self.live.find(live.address) is None
            del self.model[key]

    @invariant()
    def books_agree(self) -> None:
        idle = {key: since for key, (_, since) in self.model.items() if since is not None}
        longest = self.live.longest_idle
        assert (longest.session_key if longest else None) == min(idle, key=lambda key: idle[key], default=None)
        assert (len(self.live), self.live.busy_count) == (len(self.model), len(self.model) - len(idle))
        for key in "abcd":
            found = self.live.get(key)
            assert (found is not None) == (key in self.model)
            assert found is None or self.live.find(found.address) is found


test_live_sessions_keep_books_as_a_list_would = LiveSessionsAsALongList.TestCase

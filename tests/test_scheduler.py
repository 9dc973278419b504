"""Laws of the block pool and the scheduler over any sequence of events, without a model."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bluelm.engine.cache import BlockPool
from bluelm.engine.scheduler import Row, Scheduler
from bluelm.engine.waiting import Waiting
from bluelm.types import SamplingParams

BLOCK, BLOCKS = 4, 12
ROOM = BLOCK * BLOCKS


class Serving(RuleBasedStateMachine):
    """Submit, cancel, compute, finish in any order, over a cache too small for all."""

    retrace = False

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(BLOCKS, BLOCK)
        self.scheduler = Scheduler(self.pool, max_running=5, step_tokens=7, alone_tokens=12, retrace=self.retrace)
        self.rows: list[Row] = []
        self.content: dict[tuple[int, int], int] = {}  # (block, place) -> token whose keys stand there
        self.came: dict[tuple[int, int], str] = {}  # the same -> whose answer's token it was computed as, "" a prompt's
        self.count = 0

    # Few distinct tokens, so that prompts share beginnings.
    @rule(
        prompt=st.lists(st.integers(0, 1), min_size=1, max_size=ROOM - 6),
        new=st.integers(1, 6),
        share=st.sampled_from("aaab"),
    )
    def submit(self, prompt: list[int], new: int, share: str) -> None:
        self.count += 1
        row = Row(str(self.count), list(prompt), SamplingParams(), 0, len(prompt) + new, share=share)
        self.rows.append(row)
        self.scheduler.add(row)

    @rule()
    def out_of_memory(self) -> None:
        """A step that was planned and not computed: the next one is smaller, and nobody is lost."""
        before = self.scheduler.alone_tokens
        self.scheduler.plan()
        if self.scheduler.shrink():
            assert self.scheduler.step_tokens <= self.scheduler.alone_tokens < before

    @rule()
    def memory_again(self) -> None:
        while self.scheduler.enlarge():
            pass
        assert self.scheduler.step_tokens <= self.scheduler.alone_tokens

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(self.rows))
        self.scheduler.remove(row)
        self.rows.remove(row)

    @rule(token=st.integers(0, 1))
    def step(self, token: int) -> None:
        preemptions = self.scheduler.preemptions
        before = list(self.scheduler.running)
        awaiting = {row for row in before if row.computed == len(row.tokens) - 1}
        pieces = self.scheduler.plan()
        self.newcomers_were_the_poorest_of_all(before)
        assert bool(pieces) == bool(self.rows), "some work is done whenever there is any"
        assert len({id(piece.row) for piece in pieces}) == len(pieces)
        # A row that comes back with one token to compute was waiting in any case: it makes no step smaller.
        decoding = any(piece.row in awaiting for piece in pieces)
        budget = self.scheduler.step_tokens if decoding else self.scheduler.alone_tokens
        assert sum(piece.count for piece in pieces) <= max(budget, len(self.scheduler.running))
        if self.pool.free and self.scheduler.preemptions == preemptions:
            for row in (piece.row for piece in pieces if piece.samples):
                assert len(row.blocks) * BLOCK > len(row.tokens) or len(row.tokens) + 1 >= row.max_tokens, "no spare"
        for piece in pieces:
            row = piece.row
            assert row.computed == piece.start and piece.count >= 1
            for place in range(piece.start, piece.start + piece.count):
                key = row.blocks[place // BLOCK], place % BLOCK
                self.content[key] = row.tokens[place]
                self.came[key] = "" if piece.start < row.prompt_tokens or piece.count > 1 else row.id
            assert not self.retrace or piece.count == 1 or piece.start + piece.count <= row.prompt_tokens
        for piece in pieces:  # what attention would read is what the row says
            for place in range(piece.start + piece.count):
                key = piece.row.blocks[place // BLOCK], place % BLOCK
                assert self.content[key] == piece.row.tokens[place]
                if self.retrace:
                    assert self.came[key] == ("" if place < piece.row.prompt_tokens else piece.row.id)
        for piece in pieces:
            self.scheduler.commit(piece, token if piece.samples else None)
            if len(piece.row.tokens) >= piece.row.max_tokens:
                self.scheduler.remove(piece.row)
                self.rows.remove(piece.row)

    def newcomers_were_the_poorest_of_all(self, before: list[Row]) -> None:
        """Whoever was let in last had no more rows running than anybody who still waits."""
        running = self.scheduler.running
        if running and running[-1] not in before:
            counts = Counter(row.share for row in running)
            mine = counts[running[-1].share] - 1
            assert all(mine <= counts[row.share] for row in self.scheduler.waiting)

    @invariant()
    def no_block_is_lost_or_used_twice(self) -> None:
        self.pool.check()
        held = [block for row in self.scheduler.running for block in row.blocks]
        assert self.pool.total - self.pool.free == len(set(held))
        writable = [row.blocks[row.computed // BLOCK :] for row in self.scheduler.running]
        flat = [block for blocks in writable for block in blocks]
        assert len(flat) == len(set(flat)) and not set(flat) & {
            block for row in self.scheduler.running for block in row.blocks[: row.computed // BLOCK]
        }, "a block that will be written belongs to one row alone"

    @invariant()
    def rows_are_running_or_waiting_and_only_once(self) -> None:
        known = [*self.scheduler.running, *self.scheduler.waiting]
        assert sorted(row.id for row in known) == sorted(row.id for row in self.rows)
        assert len(self.scheduler.running) <= 5
        assert all(not row.blocks and row.computed == 0 for row in self.scheduler.waiting)

    def teardown(self) -> None:
        for _ in range(3000):
            if self.scheduler.idle:
                break
            self.step(0)
        assert self.scheduler.idle and self.pool.free == BLOCKS, "everybody gets done, and gives everything back"


Serving.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestServing = Serving.TestCase


class Retracing(Serving):
    """The same, and what a row reads was computed as if it had been alone from its beginning to its end."""

    retrace = True


Retracing.TestCase.settings = Serving.TestCase.settings
TestRetracing = Retracing.TestCase


def served(scheduler: Scheduler, rows: list[Row]) -> list[str]:
    """Ids in the order in which they end."""
    order = []
    for row in rows:
        scheduler.add(row)
    while not scheduler.idle:
        for piece in scheduler.plan():
            scheduler.commit(piece, 9 if piece.samples else None)
            if len(piece.row.tokens) >= piece.row.max_tokens:
                scheduler.remove(piece.row)
                order.append(piece.row.id)
    return order


def test_a_long_prompt_does_not_stop_those_who_decode() -> None:
    scheduler = Scheduler(BlockPool(100, BLOCK), max_running=4, step_tokens=8)
    scheduler.add(short := Row("short", [1], SamplingParams(), 0, 30))
    scheduler.commit(scheduler.plan()[0], 2)
    scheduler.add(Row("long", [1] * 200, SamplingParams(), 0, 210))
    for _ in range(20):
        pieces = scheduler.plan()
        assert pieces[0].row is short and pieces[0].samples and sum(p.count for p in pieces) <= 8
        for piece in pieces:
            scheduler.commit(piece, 2 if piece.samples else None)


def test_who_comes_back_with_one_token_left_makes_no_step_smaller() -> None:
    scheduler = Scheduler(BlockPool(100, BLOCK), max_running=4, step_tokens=8, alone_tokens=20)
    back = Row("back", [1] * (BLOCK + 1), SamplingParams(), 0, 30, prompt_tokens=BLOCK)
    scheduler.add(back)
    scheduler.commit(scheduler.plan()[0], 1)
    scheduler.remove(back)  # its first block stays in the cache
    scheduler.add(Row("back", [1] * (BLOCK + 1), SamplingParams(), 0, 30, prompt_tokens=BLOCK))
    scheduler.add(Row("long", [2] * 40, SamplingParams(), 0, 60))
    assert [(p.row.id, p.start, p.count) for p in scheduler.plan()] == [("back", BLOCK, 1), ("long", 0, 19)]


def test_prompts_come_in_larger_steps_where_nobody_waits_for_a_next_token() -> None:
    scheduler = Scheduler(BlockPool(100, BLOCK), max_running=4, step_tokens=8, alone_tokens=20)
    scheduler.add(Row("first", [1] * 30, SamplingParams(), 0, 40))
    sizes: list[list[int]] = []
    for _ in range(4):
        if len(sizes) == 2:
            scheduler.add(Row("second", [2] * 30, SamplingParams(), 0, 40))
        pieces = scheduler.plan()
        sizes.append([piece.count for piece in pieces])
        for piece in pieces:
            scheduler.commit(piece, 2 if piece.samples else None)
    assert sizes == [[20], [10], [1, 7], [1, 7]]


def test_equal_requests_end_in_the_order_they_came() -> None:
    scheduler = Scheduler(BlockPool(8, BLOCK), max_running=3, step_tokens=8)
    rows = [Row(str(i), [i] * 5, SamplingParams(), 0, 12) for i in range(9)]
    assert served(scheduler, rows) == [str(i) for i in range(9)]


def test_a_known_prefix_is_shared_by_running_rows() -> None:
    pool = BlockPool(20, BLOCK)
    scheduler = Scheduler(pool, max_running=4, step_tokens=64)
    prompt = list(range(17))
    for id in ("a", "b"):
        scheduler.add(Row(id, list(prompt), SamplingParams(), 0, 30))
        for piece in scheduler.plan():
            scheduler.commit(piece, 1 if piece.samples else None)
    a, b = scheduler.running
    assert b.cached == 16 and a.blocks[:4] == b.blocks[:4] and a.blocks[4:] != b.blocks[4:]


def test_one_request_does_not_wait_for_another_clients_hundred() -> None:
    """It begins with the next step, on a place of theirs, and they all get done."""
    scheduler = Scheduler(BlockPool(200, BLOCK), max_running=4, step_tokens=32)
    many = [Row(f"many-{i}", [i] * 6, SamplingParams(), 0, 30, share="many") for i in range(100)]
    for row in many:
        scheduler.add(row)
    order = []
    for step in range(1200):
        if step == 10:
            scheduler.add(one := Row("one", [200] * 6, SamplingParams(), 0, 12, share="one"))
        for piece in scheduler.plan():
            scheduler.commit(piece, 9 if piece.samples else None)
            if len(piece.row.tokens) >= piece.row.max_tokens:
                scheduler.remove(piece.row)
                order.append(piece.row.id)
        if step == 10:
            assert one in scheduler.running
    assert scheduler.idle and len(order) == 101
    assert order.index("one") < 4
    assert [id for id in order if id != "one"][:3] == ["many-0", "many-1", "many-2"], "the youngest made way"


def test_clients_with_many_requests_have_equal_parts() -> None:
    scheduler = Scheduler(BlockPool(400, BLOCK), max_running=6, step_tokens=64)
    rows = [Row(f"{share}{i}", [i] * 3, SamplingParams(), 0, 20, share=share) for share in "abc" for i in range(20)]
    order = served(scheduler, rows)
    for share in "abc":  # after a third of all, everybody has about a third of it
        assert abs(sum(id[0] == share for id in order[6:21]) - 5) <= 2
    assert [id for id in order if id[0] == "a"] == [f"a{i}" for i in range(20)]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(("add", "back", "take", "drop"))), max_size=60))
def test_a_queue_by_shares_loses_nobody_and_keeps_each_shares_order(events: list[tuple[str, str]]) -> None:
    waiting: Waiting[Row] = Waiting()
    known: dict[str, list[Row]] = {share: [] for share in "abcd"}
    for number, (share, event) in enumerate(events):
        rows = known[share]
        if event in ("add", "back"):
            row = Row(str(number), [1], SamplingParams(), 0, 2, share=share)
            (waiting.add if event == "add" else waiting.put_back)(row)
            rows.insert(len(rows) if event == "add" else 0, row)
        elif event == "drop" and rows:
            waiting.remove(rows.pop())
        elif event == "take" and waiting:
            row = waiting.next([])
            assert row is known[row.share].pop(0)
            waiting.take(row)
        assert len(waiting) == sum(map(len, known.values())) and all(row in waiting for row in waiting)
        assert [row for row in waiting if row.share == share] == rows
    told = waiting.in_turn([])
    served_rows: list[Row] = []
    while waiting:
        waiting.take(row := waiting.next(served_rows))
        served_rows.append(row)
    assert told == served_rows, "who is told a place is served at that place"


def test_a_prompt_that_comes_several_times_at_once_is_computed_once() -> None:
    pool = BlockPool(60, BLOCK)
    scheduler = Scheduler(pool, max_running=8, step_tokens=64)
    rows = [Row(str(i), list(range(23)), SamplingParams(), 0, 30) for i in range(5)]
    other = Row("other", list(range(100, 106)), SamplingParams(), 0, 12)
    for row in (*rows, other):
        scheduler.add(row)
    computed = []
    while not scheduler.idle:
        pieces = scheduler.plan()
        computed.append([(piece.row.id, piece.count) for piece in pieces if piece.start < piece.row.prompt_tokens])
        for piece in pieces:
            scheduler.commit(piece, 1 if piece.samples else None)
            if len(piece.row.tokens) >= piece.row.max_tokens:
                scheduler.remove(piece.row)
    assert computed[:2] == [[("0", 23)], [("1", 3), ("2", 3), ("3", 3), ("4", 3), ("other", 6)]]
    assert [row.cached for row in rows] == [0, 20, 20, 20, 20]


def test_a_short_common_beginning_is_not_waited_for() -> None:
    scheduler = Scheduler(BlockPool(60, BLOCK), max_running=8, step_tokens=64)
    for i in range(3):
        scheduler.add(Row(str(i), [*range(8), *[50 + i] * 9], SamplingParams(), 0, 30))
    assert [piece.count for piece in scheduler.plan()] == [17, 17, 17]

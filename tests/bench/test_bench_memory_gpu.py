"""The memory benchmark on a GPU: its logic, with stand-ins for CUDA."""

import csv
import inspect
from argparse import Namespace

import pytest
import torch

from bench import all as everything
from bench import cost, largest, measure, memory, snapshot, turns
from bench.cells import prediction
from bench.rows import ROWS, Row
from bench.steps import FULL, PLAIN, REUSE
from bench.turns import GIB, DoesNotFit, NotMeasured, Turns
from minilora.clip import VIT_B_16

CASE = (2, "float32", "off")


class Clock:
    """Seconds that pass only when told."""
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def options(tmp_path):
    return Namespace(device="cpu", shape=VIT_B_16, pool=4, out=tmp_path, budget=None)


def test_what_the_budget_leaves_out_is_measured_by_the_next_call(options):
    options.budget, made = 25, []

    def work(name, shape, conditions):
        made.append(name)
        clock.now += 10
        return len(made)

    def call():
        one, found = Turns(options, clock, here=True), []
        for name in "abcd":
            try:
                found.append(one.result("memory", name, CASE, work))
            except NotMeasured as reason:
                found.append(str(reason))
        return found
    clock = Clock()
    assert call() == [1, 2, "not measured", "not measured"], "the third could end after 25 seconds"
    assert call() == [1, 2, 3, 4] and made == list("abcd")


def test_out_of_memory_is_an_answer_and_lets_go_of_what_was_allocated(options, monkeypatch):
    monkeypatch.setattr(measure, "device_bytes", lambda device: 12 * GIB)
    alive = []

    class Large:
        def __init__(self):
            alive.append(self)

        def __del__(self):
            alive.append("freed")

    def work(name, shape, conditions):
        tensor = Large()                                # noqa: F841, kept by this frame
        alive.clear()
        raise torch.OutOfMemoryError("CUDA out of memory")
    one = Turns(options, here=True)
    with pytest.raises(DoesNotFit, match="^does not fit in 12 GB$") as caught:
        one.result("memory", FULL, CASE, work)
    assert alive == ["freed"] and caught.value.__context__ is None
    assert not list(options.out.rglob("*.json")), "free memory may differ the next time"
    with pytest.raises(RuntimeError, match="illegal"):
        one.result("memory", FULL, CASE, illegal)


def illegal(name, shape, conditions):
    raise RuntimeError("an illegal memory access was encountered")


@pytest.mark.parametrize("error, answer", [(None, True), (torch.OutOfMemoryError("full"), False),
                                           (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), False),
                                           (RuntimeError("unable to find an engine"), False)])
def test_a_card_is_simulated_by_a_limit_that_is_lifted_afterwards(error, answer, monkeypatch):
    shares = []

    class Steps:
        def steps(self):
            yield 1.0
            if error:
                raise error
            yield 1.0
    monkeypatch.setattr(cost, "training", lambda *arguments: Steps())
    cuda = {"mem_get_info": lambda d: (70 * GIB, 80 * GIB), "memory_reserved": lambda d: 8 * GIB,
            "set_per_process_memory_fraction": lambda share, d: shares.append(share)}
    for name, function in cuda.items():
        monkeypatch.setattr(torch.cuda, name, function)
    assert cost.fits(FULL, {}, {"device": "cpu"}, 12 * GIB) is answer
    assert shares == [10 / 80, 1.0], "12 GiB less the 2 of other programs; own 8 can be used"


def gpu(monkeypatch, **functions):
    """Stand-ins for a GPU of 13 GiB and for the measurements on it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "some GPU")
    monkeypatch.setattr(memory, "device_name", str)
    monkeypatch.setattr(measure, "device_bytes", lambda device: 13 * GIB)
    monkeypatch.setattr(measure, "fresh", None)         # no other process is started
    monkeypatch.setattr(turns.gc, "collect", lambda: 0)     # nothing large is made
    for name, function in functions.items():
        monkeypatch.setattr(cost, name, function)


def test_one_command_does_all_of_it_on_a_gpu(tmp_path, monkeypatch, capsys):
    def peaks(name, *rest):
        if name == FULL:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"allocated": 1e9, "reserved": 2e9, "blocks": 4, "trainable": 10, "total": 9,
                "file": 1}

    def fits(name, shape, conditions, card):
        assert torch.cuda.memory._get_device_index(conditions["device"]) == 0, "needs a number"
        return conditions["batch"] <= card // GIB
    gpu(monkeypatch, memory=peaks, duration=lambda *a: [1.0, 2.0, 3.0],
        rivals=lambda names, *a: {name: [1.0] for name in names}, fits=fits,
        over_time=lambda name, *a: [(0, 0), (5, 3e9)])
    o = memory.parser().parse_args(["--device", "cuda", "--all", "--out", str(tmp_path),
                                    "--methods", "full", "CoOp"])
    assert o.shape == VIT_B_16 and len(o.batch) == 1
    o.peft = False
    memory.run(o, lambda line: None)
    assert o.budget == memory.GPU_BUDGET
    rows = {r["row"]: r for r in csv.DictReader((tmp_path / "memory-cuda.csv").open())}
    assert rows["full"]["reason"] == "does not fit in 13 GB" and rows["full"]["allocated"] == ""
    assert (rows["CoOp"]["allocated"], rows["CoOp"]["reserved"]) == ("1e+09", "2e+09")
    printed = capsys.readouterr().out
    assert "reserved MB" in printed and "found by trying" in printed and "some GPU" in printed
    tried = printed.split("found by trying")[1].splitlines()
    line = next(line for line in tried if line.startswith("full "))
    assert line.split()[3:] == ["4", "12", "--", "(this", "GPU:", "13", "GB)"]
    assert {path.name for path in tmp_path.iterdir()} == {"cells"} | {
        f"memory-cuda{ending}" for ending in everything.ENDINGS}, "bench.all copies all of them"


@pytest.mark.parametrize("name", ["memory", "memory-cuda"])
def test_each_table_is_measured_on_its_device_where_there_is_a_gpu(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    job = next(job for job in everything.JOBS if job.name == name)
    o = memory.parser().parse_args(job.command.split()[1:])
    assert torch.device(o.device).type == job.device


def test_the_clock_waits_for_the_gpu_that_is_measured(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: calls.append(device))
    assert measure.seconds(lambda: calls.append("work"), "cuda:1") >= 0
    assert calls == ["cuda:1", "work", "cuda:1"]


def test_the_head_line_of_a_gpu_says_which_products_use_tf32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "some GPU")
    found = measure.conditions("cuda:0")
    assert "some GPU, TF32 off in matrix products, on in convolutions" in found
    assert "TF32" not in measure.conditions()


def test_a_spent_budget_still_writes_the_table(tmp_path, monkeypatch, capsys):
    gpu(monkeypatch)
    o = memory.parser().parse_args(["--device", "cuda", "--all", "--out", str(tmp_path),
                                    "--methods", FULL, REUSE, "--budget", "-1"])
    o.peft = False
    memory.run(o, lambda line: None)
    text = (tmp_path / "memory-cuda.txt").read_text().split("memory above", 2)[-1]
    assert text.count("not measured") == 2 + 2 * 2, "one for each row, and for each smaller card"
    assert not (tmp_path / "memory-cuda.svg").exists()


def test_a_bisection_that_runs_out_of_time_says_so(options):
    class Slow(Turns):
        tries = 3

        def result(self, *arguments):
            self.tries -= 1
            if not self.tries:
                raise NotMeasured("not measured")
            return True

        def capacity(self):
            return 80 * GIB
    assert largest.by_trying(Row(PLAIN, PLAIN), Slow(options))[0] == "not measured"


class Card(Turns):
    """A GPU on which each batch needs `above` bytes more than predicted; counts its tries."""
    tries, above, bytes = 0, 2 * GIB, 15 * GIB

    def capacity(self):
        return self.bytes

    def result(self, quantity, name, case, compute, card):
        self.tries += 1
        return sum(prediction(name, case, self.options, "cuda").values()) + self.above <= card


def test_what_the_formula_misses_on_one_card_is_known_on_the_next(options):
    one = Card(options)
    found = list(map(int, largest.by_trying(Row(FULL, FULL), one)))
    exact = [largest.by_formula(Row(FULL, FULL), card - one.above, options)
             for card in largest.CARDS.values()]
    assert all(a <= b <= a * (1 + largest.EXACT) + 1 for a, b in zip(found, exact))
    assert one.tries < 16, "a search that starts at the formula alone takes 23 tries"


def test_a_card_of_16_gb_reports_less_and_is_measured_all_the_same(options):
    one = Card(options)
    one.bytes = int(14.56 * GIB)                        # what a T4 reports
    assert all(text.isdigit() for text in largest.by_trying(Row(REUSE, REUSE), one))
    one.bytes = int(11.76 * GIB)                        # an RTX 3060
    assert largest.by_trying(Row(REUSE, REUSE), one)[2] == "-- (this GPU: 12 GB)"


def test_rows_with_short_tries_come_first_on_a_gpu(options, monkeypatch):
    monkeypatch.setattr(largest, "by_trying", lambda row, turns: ["1"] * 3)
    one, said = Turns(options), []
    one.on_gpu = True
    [(_, _, rows)] = largest.tables(ROWS, one, said.append)
    assert [(row[1], row[2]) == ("float32", "off") for row in rows] == [True] * 4 + [False] * 5
    assert len(said) == len(rows)


# ---- memory over time ---------------------------------------------------------------------------

def event(action, size, time):
    """One entry as the allocator of torch 2 records it."""
    return {"action": action, "addr": 0, "size": size, "stream": 0, "time_us": time, "frames": []}


TRACE = [event("segment_alloc", 4000, 9), event("alloc", 100, 1000), event("alloc", 300, 2000),
         event("free_requested", 100, 2500), event("free_completed", 100, 3000),
         event("snapshot", 0, 3500), event("alloc", 50, 4000)]
RECORD = {"device_traces": [[], TRACE],
          "segments": [{"device": 1, "address": 0, "total_size": 4000, "stream": 0,
                        "segment_type": "small", "allocated_size": 350, "active_size": 350,
                        "blocks": [{"size": 300, "state": "active_allocated", "address": 100}]}]}


def test_the_curve_follows_what_is_allocated_and_freed():
    curve = snapshot.allocated_over_time(RECORD, 1)
    assert curve == [(0, 100), (1, 400), (2, 300), (3, 350)]
    assert curve[-1][1] == RECORD["segments"][0]["active_size"]
    assert snapshot.allocated_over_time(RECORD, 0) == []


def test_thinning_keeps_the_peaks():
    curve = [(k / 10, (k * 7919) % 1000) for k in range(5000)]
    found = snapshot.thinned(curve, 50)
    assert len(found) == 50 and max(v for _, v in found) == max(v for _, v in curve)
    assert set(found) <= set(curve) and found == sorted(found)
    assert snapshot.thinned([]) == []


RECORDER = inspect.signature(torch.cuda.memory._record_memory_history)


def bound(options):
    """The arguments as torch would take them; TypeError for one that it does not have."""
    found = RECORDER.bind(**options)
    found.apply_defaults()
    return found.arguments


def test_recording_stops_after_an_error(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history",
                        lambda **options: calls.append(bound(options)["enabled"]))
    monkeypatch.setattr(torch.cuda.memory, "_snapshot", lambda: RECORD)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: calls.append("waited"))
    assert snapshot.recorded(lambda: calls.append("work"), "cuda") is RECORD
    assert calls == ["all", "work", "waited", None]
    with pytest.raises(ZeroDivisionError):
        snapshot.recorded(lambda: 1 / 0, "cuda")
    assert calls[-1] is None

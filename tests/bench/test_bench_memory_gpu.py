"""The memory benchmark on a GPU: its logic, with stand-ins for CUDA."""

import csv
from argparse import Namespace

import pytest
import torch

from bench import cost, largest, measure, memory, snapshot, turns
from bench.rows import Row
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
                                           (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), False)])
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
    gpu(monkeypatch, memory=peaks, duration=lambda *a: [1.0, 2.0, 3.0],
        rivals=lambda names, *a: {name: [1.0] for name in names},
        fits=lambda name, shape, conditions, card: conditions["batch"] <= card // GIB,
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
        f"memory-cuda{ending}" for ending in (".txt", ".md", ".csv", ".svg", ".png",
                                              "-over-time.svg", "-over-time.png")}


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
    assert largest.by_trying(Row(PLAIN, PLAIN), 4 * GIB, Slow(options)) == "not measured"


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


def test_recording_stops_after_an_error(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history",
                        lambda **options: calls.append(options.get("enabled", "all")))
    monkeypatch.setattr(torch.cuda.memory, "_snapshot", lambda: RECORD)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: calls.append("waited"))
    assert snapshot.recorded(lambda: calls.append("work"), "cuda") is RECORD
    assert calls == ["all", "work", "waited", None]
    with pytest.raises(ZeroDivisionError):
        snapshot.recorded(lambda: 1 / 0, "cuda")
    assert calls[-1] is None

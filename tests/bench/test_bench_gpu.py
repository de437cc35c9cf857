"""What bench.gpu computes, on small shapes; the same functions run on a CPU."""
import argparse

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench import gpu
from bench.speed_pairs import random_pixels, seeded_clip
from minilora.clip import VIT_B_16, CLIPConfig

TINY = CLIPConfig(embed=32, resolution=64, vision_layers=3, vision_width=128, patch=16,
                  text_width=64, text_layers=1)


@pytest.mark.parametrize("resolution", [32, 64])
def test_flops_of_the_tower_are_those_that_torch_counts(resolution):
    """Counted in the attention's written-out form: torch has no count of its CPU kernel."""
    shape = CLIPConfig(**vars(TINY) | {"resolution": resolution})
    visual = seeded_clip("cpu", shape).visual
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        visual.encode_image(random_pixels(3, "cpu", resolution))
    assert counter.get_total_flops() == 3 * gpu.tower_flops(shape)


def test_vit_b_16_takes_33_billion_flops_a_picture():
    """17.6 G multiply-adds are published for every token in every block (Touvron et al. 2021)."""
    whole = gpu.tower_flops(VIT_B_16)
    assert 32e9 < whole < 2 * 17.6e9 and 2 * 17.6e9 - whole < 3e9   # the last block: CLS only


def test_the_data_sheets_value_is_found_by_the_cards_name():
    assert gpu.datasheet_peak("NVIDIA H200") == gpu.datasheet_peak("NVIDIA H100 80GB HBM3") == 989
    assert gpu.datasheet_peak("NVIDIA H100 PCIe") == 756
    assert gpu.datasheet_peak("NVIDIA A100-SXM4-40GB") == 312
    assert gpu.datasheet_peak("NVIDIA H100 NVL") == 835
    assert gpu.datasheet_peak("NVIDIA L4") == 121 and gpu.datasheet_peak("NVIDIA L40") is None
    assert gpu.datasheet_peak("Tesla T4") is gpu.datasheet_peak("") is None


def test_shares_follow_from_rate_flops_and_peak(monkeypatch):
    monkeypatch.setattr(gpu, "pictures_per_second", lambda shape, batches, device: {
        1: [5.0, 5.0], 8: [40.0, 60.0]})
    monkeypatch.setattr(gpu, "product_peak", lambda side, device: 100.0 * gpu.tower_flops(TINY))
    monkeypatch.setattr(gpu, "datasheet_peak", lambda name: 250 * gpu.tower_flops(TINY) / 1e12)
    rows = dict(gpu.encode_part(argparse.Namespace(batch=[1, 8], device="cpu", side=64), TINY))
    assert rows["encode_image, batch 8, pictures/s"] == "50 (40 to 60)"
    assert rows["share of the product's"] == "50.0%"
    assert rows["share of the data sheet's"] == "20.0%"


def test_a_batch_that_does_not_fit_ends_the_search(monkeypatch):
    def random(count, device, side):
        if count == 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.zeros(count, 3, side, side)
    monkeypatch.setattr(gpu, "random_pixels", random)
    found = gpu.pictures_per_second(TINY, [1, 2, 4, 8], "cpu", rounds=2)
    assert {batch: len(rates) for batch, rates in found.items()} == {1: 2, 2: 2}
    o = argparse.Namespace(batch=[4, 8], device="cpu", side=64)
    assert gpu.encode_part(o, TINY) == [("encode_image, batch 4", "does not fit")]


def test_the_pieces_run_on_a_cpu_too():
    assert gpu.product_peak(64, "cpu", rounds=2) > 0
    times = gpu.training_seconds(2, "cpu", "--batch", "4", "--buffer", "4", "--layers", "2",
                                 "--width", "64", "--workers", "0")
    assert len(times) == 2 and min(times) > 0


def test_without_a_gpu_one_line_says_so(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu, "PARTS", {})
    assert gpu.main([]) == 2
    found = capsys.readouterr()
    assert found.out == "" and found.err.startswith("bench.gpu needs a GPU with CUDA, found --dev")
    assert found.err.count("\n") == 1

"""python -m minilora.mae: what it writes, and that an interrupted training continues."""
import json

import numpy as np
import pytest
import torch
from PIL import Image

from minilora.mae import checkpoint as mae_checkpoint
from minilora.mae import run as mae_run
from minilora.mae import transfer
from minilora.mae.model import MAEConfig, MaskedAutoencoder
from minilora.scenes import scene

SMALL = MAEConfig(width=64, layers=2, heads=1, patch=16, resolution=64, decoder_width=32,
                  decoder_layers=1, decoder_heads=1)


@pytest.fixture
def options(tmp_path, monkeypatch):
    monkeypatch.setitem(mae_run.CONFIGS, "mini", SMALL)
    for name in ("PROBE_CONFIG", "FINETUNE_CONFIG", "SEGMENT_CONFIG"):
        monkeypatch.setattr(transfer, name, transfer.TrainConfig(3, 4, 1e-3))
    scene.write_class(tmp_path / "data", "gear", good=5, test_good=3, defective=4, resolution=64)

    def make(*more, out="out"):
        return mae_run.parser().parse_args([
            "--data", str(tmp_path / "data"), "--class", "gear", "--steps", "4", "--batch", "2",
            "--save-every", "0", "--out", str(tmp_path / out), *more])
    return make


def silent(line):
    pass


def test_model_grid_and_metrics_are_written(options):
    made = options("--probe", "--finetune")
    metrics = mae_run.run_mae(made, silent)
    kept = json.loads((made.out / "metrics.json").read_text())
    assert kept == json.loads(json.dumps(metrics)) and len(kept["losses"]) == 4
    assert {"image_auroc", "pixel_auroc"} <= set(kept["reconstruction"])
    for name in ("probe", "finetune"):
        assert 0 <= kept[name]["accuracy"] <= 1
    assert 0 <= kept["segmentation"]["pixel_auroc"] <= 1
    with Image.open(made.out / "grid.png") as picture:
        assert picture.size == (3 * 64, 6 * 64)
    assert mae_checkpoint.load_mae(made.out / "mae.safetensors").config == SMALL
    assert sorted(p.name for p in made.out.iterdir() if p.name[0] != ".") == [
        "grid.png", "mae.safetensors", "metrics.json"]


def test_an_interrupted_training_continues_bit_for_bit(options, monkeypatch):
    whole = mae_run.run_mae(options(), silent)
    stopped = options(out="stopped")

    class Stop(mae_run.ProgressLine):
        def __call__(self, step, loss):
            if step == 1:
                raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(mae_run, "ProgressLine", Stop)
        mae_run.run_mae(stopped, silent)
    again = mae_run.run_mae(stopped, silent)
    assert again["losses"] == whole["losses"] and again["reconstruction"] == whole["reconstruction"]


def test_training_can_start_from_official_weights(options, tmp_path):
    mae = MaskedAutoencoder(SMALL).initialise(torch.Generator().manual_seed(3))
    encoder = {k: v for k, v in mae_checkpoint.official_state(mae).items()
               if "decoder" not in k and k != "mask_token"}
    torch.save({"model": encoder}, tmp_path / "mae_pretrain.pth")
    made = mae_run.build_mae(options("--weights", str(tmp_path / "mae_pretrain.pth"),
                                    "--mask-ratio", "0.5"), torch.Generator().manual_seed(0))
    assert torch.equal(made.encoder.embed.weight, mae.encoder.embed.weight)
    assert made.config.mask_ratio == 0.5


def test_the_grid_shows_original_masked_and_reconstructed_picture():
    mae = MaskedAutoencoder(SMALL).initialise(torch.Generator().manual_seed(0))
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    image = torch.from_numpy(np.array(mae_run.reconstruction_grid(mae, pixels)))
    original, masked, reconstructed = image.float().split(64, dim=1)
    grey = (masked - 127.5).abs().amax(-1) <= 1
    assert grey.float().mean() > 0.74
    assert (masked - original)[~grey].abs().max() <= 1
    assert (reconstructed - original)[~grey].abs().max() <= 1
    assert (reconstructed - original)[grey].abs().mean() > 1


def test_shots_must_be_a_number(options):
    with pytest.raises(ValueError, match="--shots many: expected a whole number"):
        mae_run.run_mae(options("--shots", "many"), lambda line: None)

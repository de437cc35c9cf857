"""Baselines without CLIP, compared with other implementations and with their definitions."""
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora.baselines import resnet18
from minilora.baselines.autoencoder import Autoencoder, ConvEncoder, repeated_indices, toy_discs
from minilora.baselines.long_tail import (balanced_contrastive_loss, class_weights,
                                          compensated_logits, group_by_frequency)
from minilora.baselines.simclr import SimCLR, nt_xent
from minilora.baselines.supervised import RECIPES, Supervised, SupervisedConfig, random_crops
from minilora.baselines.svdd import DeepSVDD
from minilora.io.checkpoint_error import CheckpointError
from minilora.io.files import save_tensors
from minilora.mae.detector import MaskedReconstruction, reconstruction_errors
from minilora.mae.model import MAE_MINI, MAEConfig
from minilora.training_steps import TrainConfig as Steps


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- ResNet-18 ----------------------------------------------------------------------------------

def peer(net):
    """The ResNet-18 of transformers with the same weights."""
    from transformers import ResNetConfig, ResNetModel
    theirs = ResNetModel(ResNetConfig(
        embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2],
        layer_type="basic", downsample_in_first_stage=False))
    own, state = net.state_dict(), {}
    for key in theirs.state_dict():
        if key.startswith("embedder"):
            name = "conv1.weight" if "convolution" in key else f"bn1.{key.split('.')[-1]}"
        else:
            parts = key.split(".")
            prefix, kind = f"layer{int(parts[2]) + 1}.{parts[4]}", parts[-1]
            if "shortcut" in key:
                place = f"downsample.{0 if 'convolution' in key else 1}"
            else:
                place = f"{'conv' if 'convolution' in key else 'bn'}{int(parts[6]) + 1}"
            name = f"{prefix}.{place}.{kind}"
        state[key] = own[name]
    theirs.load_state_dict(state)
    return theirs.eval()


def test_resnet18_equals_that_of_transformers():
    torch.manual_seed(0)
    net = resnet18.ResNet18(5)
    with torch.no_grad():                               # not the initial statistics
        net.train()(draw(1, 4, 3, 64, 64))
        net.eval()
        theirs = peer(net)(draw(2, 2, 3, 96, 96)).pooler_output.flatten(1)
        ours = net.features(draw(2, 2, 3, 96, 96))
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_resnet18_has_the_keys_and_the_size_of_torchvision():
    net = resnet18.ResNet18(1000)
    assert sum(p.numel() for p in net.parameters()) == 11_689_512
    keys = set(net.state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer1.0.conv1.weight", "layer4.1.bn2.bias",
            "layer2.0.downsample.0.weight", "layer2.0.downsample.1.running_mean",
            "fc.weight"} <= keys
    assert not any(k.startswith("layer1.0.downsample") for k in keys)


def test_a_file_with_official_keys_is_loaded_as_the_backbone(tmp_path):
    torch.manual_seed(0)
    net = resnet18.ResNet18(1000)
    torch.save(net.state_dict(), tmp_path / "resnet18.pth")
    other = resnet18.load_backbone(resnet18.ResNet18(4), tmp_path / "resnet18.pth").eval()
    pixels = draw(3, 2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(other.features(pixels), net.eval().features(pixels))
    save_tensors(tmp_path / "wrong.pt", {"conv1.weight": torch.zeros(64, 3, 3, 3)})
    with pytest.raises(CheckpointError, match="do not fit a ResNet-18"):
        resnet18.load_backbone(other, tmp_path / "wrong.pt")


def test_frozen_stages_keep_weights_and_statistics():
    torch.manual_seed(0)
    net = resnet18.ResNet18(3).freeze("stem", "layer1")
    before = {k: v.clone() for k, v in net.state_dict().items()}
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    F.cross_entropy(net.train()(draw(0, 4, 3, 64, 64)), torch.tensor([0, 1, 2, 0])).backward()
    optimiser.step()
    for key, value in net.state_dict().items():
        moved = not torch.equal(before[key], value)
        assert moved == (not key.startswith(("conv1", "bn1", "layer1"))), key


# ---- long tail ----------------------------------------------------------------------------------

def naive_contrast(features, targets, prototypes, temperature):
    """Equation 6 of Zhu et al. as explicit sums."""
    z = [F.normalize(x, dim=0) for x in (*features, *prototypes)]
    label = [*targets.tolist(), *range(len(prototypes))]
    losses = []
    for i in range(len(features)):
        denominator = 0
        for c in range(len(prototypes)):
            members = [k for k in range(len(z)) if label[k] == c and k != i]
            denominator += sum(math.exp(z[i] @ z[k] / temperature) for k in members) / len(members)
        alike = [k for k in range(len(z)) if label[k] == label[i] and k != i]
        losses.append(-sum(math.log(math.exp(z[i] @ z[p] / temperature) / denominator)
                           for p in alike) / len(alike))
    return torch.tensor(losses)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_balanced_contrast_is_the_formula_of_the_paper(targets, seed):
    targets = torch.tensor(targets)
    features, prototypes = draw(seed, len(targets), 6), draw(seed + 1, 4, 6)
    found = balanced_contrastive_loss(features, targets, prototypes, 0.3)
    assert torch.allclose(found, naive_contrast(features, targets, prototypes, 0.3), atol=1e-4)


def test_copies_of_a_common_class_do_not_change_the_loss_of_rare_ones():
    """Class averaging: only the weight of the prototype within its class changes."""
    prototypes = draw(0, 3, 8)
    common, rare = prototypes[0].expand(10, 8), draw(1, 1, 8)
    one, many = (balanced_contrastive_loss(torch.cat([rare, common.repeat(k, 1)]),
                                   torch.tensor([2] + [0] * (10 * k)), prototypes)[0]
                 for k in (1, 5))
    assert torch.allclose(one, many, atol=1e-5)


def test_every_class_is_part_of_every_batch():
    """Class complement: without a picture of class 2, its prototype is still a negative."""
    features, targets = draw(0, 4, 8), torch.tensor([0, 0, 1, 1])
    near, far = draw(1, 3, 8), draw(1, 3, 8)
    near[2], far[2] = features[0], -features[0]
    assert (balanced_contrastive_loss(features, targets, near)[0]
            > balanced_contrastive_loss(features, targets, far)[0])


def test_weights_follow_the_effective_number():
    weights = class_weights([1, 2, 50], beta=0.9)
    effective = torch.tensor([1.0, 1.9, (1 - 0.9 ** 50) / 0.1])
    assert torch.allclose(weights * effective, (weights * effective)[:1].expand(3))
    assert weights.mean() == pytest.approx(1)
    with pytest.raises(ValueError, match="at least one picture"):
        class_weights([3, 0])


def test_compensation_adds_the_log_frequency_of_the_class():
    logits = torch.zeros(1, 2)
    probabilities = compensated_logits(logits, [30, 10]).softmax(1)
    assert torch.allclose(probabilities, torch.tensor([[0.75, 0.25]]))


def test_head_middle_and_tail_hold_every_class_once():
    groups = group_by_frequency([5, 60, 9, 7, 2])
    assert groups["head"] == [1] and groups["tail"] == [4]
    assert sorted(sum(groups.values(), [])) == [0, 1, 2, 3, 4]
    assert group_by_frequency([3, 9]) == {"head": [1], "middle": [], "tail": [0]}


# ---- supervised ---------------------------------------------------------------------------------

def test_all_recipes_train_30_epochs_at_rate_1e_3():
    assert all((r.epochs, r.rate) == (30, 1e-3) for r in RECIPES.values())
    last = RECIPES["ResNet-18, dropout, cosine"]
    assert last.dropout == 0.5 and last.cosine


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recipe_has_prototypes_as_wide_as_the_features_of_its_network(recipe):
    judge = Supervised(recipe, 3)
    with torch.no_grad():
        features = judge.net.features(torch.zeros(1, 3, 64, 64))
    assert judge.prototypes.shape == (3, features.shape[1])


@pytest.mark.parametrize("loss", ["plain", "weighted", "contrastive"])
def test_a_network_learns_to_distinguish_two_kinds(loss):
    line = torch.arange(64) // 8 % 2
    stripes = torch.stack([line.expand(64, 64), line[:, None].expand(64, 64)]).float()
    targets = torch.arange(16) % 2
    pixels = (stripes[targets][:, None] * 0.5 + 0.2 + 0.05 * draw(0, 16, 3, 64, 64)).clamp(0, 1)
    config = SupervisedConfig(loss=loss, resolution=64, batch=4)
    classifier = Supervised(config, 2).fit(pixels[:12], targets[:12])
    probabilities = classifier.probabilities(pixels[12:])
    assert torch.allclose(probabilities.sum(1), torch.ones(4))
    assert torch.equal(probabilities.argmax(1), targets[12:])


def test_a_run_can_be_repeated():
    pixels, targets = draw(0, 6, 3, 64, 64).sigmoid(), torch.tensor([0, 1, 2, 0, 1, 2])
    recipe = SupervisedConfig(augmented=True, dropout=0.2, resolution=64, epochs=2, batch=3)
    found = []
    for state in (1, 2):
        torch.manual_seed(state)                        # the global generator must not matter
        found.append(Supervised(recipe, 3, seed=5).fit(pixels, targets).probabilities(pixels))
    assert torch.equal(*found)


def test_crops_keep_size_and_range():
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    cut = random_crops(pixels, torch.Generator().manual_seed(0))
    assert cut.shape == pixels.shape and 0 <= cut.min() and cut.max() <= 1
    assert not torch.equal(cut, pixels)


# ---- without labels -----------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.parametrize("make", [Autoencoder, DeepSVDD], ids=lambda m: m.__name__)
def test_a_spot_scores_higher_than_a_new_good_picture(make):
    good, bad = toy_discs()
    detector = make(Steps(40, 8, 1e-3)).fit(good[:8])
    scores = [detector.score(picture)[1].item() for picture in (good[8:], bad)]
    assert scores[1] > 1.5 * scores[0]


@pytest.mark.slow
def test_the_map_of_an_autoencoder_shows_the_place():
    good, bad = toy_discs()
    maps, _ = Autoencoder(Steps(60, 8, 2e-3)).fit(good[:8]).score(bad)
    assert maps.shape == (1, 128, 128)
    assert maps[0, 58:74, 58:74].mean() > 5 * maps[0, :40].mean()


def test_the_encoder_of_svdd_has_no_bias():
    """Propositions 1 and 2: with a bias, f could become the constant c."""
    assert all(p.ndim > 1 for p in DeepSVDD().parameters())
    assert not ConvEncoder(bias=False)(torch.zeros(1, 3, 128, 128)).any()


def test_the_centre_keeps_away_from_zero():
    detector = DeepSVDD(Steps(1, 8, 3e-4)).fit(toy_discs()[0][:2])
    assert (detector.centre.abs() >= 0.1 - 1e-6).all()


def test_nt_xent_is_equation_1():
    one, two = draw(0, 5, 4), draw(1, 5, 4)
    z = F.normalize(torch.cat([one, two]), dim=1)
    total = 0
    for i in range(10):
        others = [math.exp(z[i] @ z[k] / 0.5) for k in range(10) if k != i]
        total -= math.log(math.exp(z[i] @ z[(i + 5) % 10] / 0.5) / sum(others))
    assert nt_xent(one, two, 0.5).item() == pytest.approx(total / 10, rel=1e-5)
    assert nt_xent(one, one, 0.5) < nt_xent(one, two, 0.5)


def test_simclr_scores_pictures_and_places():
    good, bad = toy_discs()
    detector = SimCLR(Steps(3, 16, 1e-3)).fit(good[:4])
    maps, scores = detector.score(torch.cat([good[:1], bad]))
    assert maps.shape == (2, 128, 128) and scores[0] < 1e-3, "a training picture"
    assert scores[1] > scores[0]


def test_few_pictures_are_repeated():
    assert repeated_indices(torch.zeros(3, 1), 8).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert repeated_indices(torch.zeros(9, 1), 8).tolist() == list(range(9))


def test_the_error_of_a_patch_comes_from_the_masks_that_hide_it():
    """Each patch is visible in one of four masks; only its three errors under the others count."""
    config = MAEConfig(width=64, layers=1, heads=1, patch=8, resolution=32, decoder_width=32,
                       decoder_layers=1, decoder_heads=1, normalise_pixels=False)
    detector = MaskedReconstruction(config, Steps(2, 8, 1e-3))
    seen = []
    real = type(detector.model).forward

    def recording_forward(mae, pixels, noise):
        predicted, hidden = real(mae, pixels, noise)
        seen.append(hidden)
        return predicted, hidden
    type(detector.model).forward = recording_forward
    try:
        errors = reconstruction_errors(detector.model, torch.rand(2, 3, 32, 32), partitions=1)
    finally:
        type(detector.model).forward = real
    assert torch.stack(seen).sum(0).eq(3).all() and len(seen) == 4
    assert errors.shape == (2, 16) and (errors > 0).all()


def test_masked_reconstruction_trains_on_plain_pixels():
    assert MAE_MINI.normalise_pixels and not MaskedReconstruction().model.config.normalise_pixels

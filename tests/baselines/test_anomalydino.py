"""AnomalyDINO's recipe: rotated shots, all patches, the top 1 per cent; SciPy and scikit-learn as
peers."""
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import rotate
from sklearn.neighbors import NearestNeighbors

from minilora.baselines.anomalydino import ANGLES, AnomalyDINO, rotated_about_centre
from minilora.data.images import normalise


@pytest.fixture
def good():
    """A noisy grey plate with a bright bar, five times: rotations of it differ."""
    generator = torch.Generator().manual_seed(0)
    pictures = 0.5 + 0.02 * torch.randn(5, 3, 64, 64, generator=generator).clamp(-1, 1)
    pictures[..., 28:36, 24:] += 0.4
    return pictures


def test_a_shot_is_rotated_by_eight_angles_as_scipy_rotates_it(good):
    copies = rotated_about_centre(good[0])
    assert ANGLES == (0, 45, 90, 135, 180, 225, 270, 315) and copies.shape == (8, 3, 64, 64)
    for angle, copy in zip(ANGLES, copies):
        expected = rotate(good[0].double().numpy(), angle, (2, 1), reshape=False, order=1,
                          mode="mirror")
        torch.testing.assert_close(copy.double(), torch.tensor(expected), rtol=0, atol=2e-3)


def test_quarter_rotations_only_move_pixels(good):
    copies = rotated_about_centre(good[0])
    for quarters in range(4):
        torch.testing.assert_close(copies[2 * quarters], good[0].rot90(quarters, (1, 2)), rtol=0,
                                   atol=1e-4)


def test_features_leave_the_last_block_through_its_layer_norm(tiny_clip, good):
    visual = tiny_clip.visual
    hidden = visual.hidden_states(visual.embed(normalise(good)))
    expected = F.normalize(visual.ln_post(hidden[len(visual.blocks)][:, 1:]), dim=-1)
    torch.testing.assert_close(AnomalyDINO(tiny_clip).features(good), expected)


def test_all_patches_of_all_copies_are_kept(tiny_clip, good):
    assert len(AnomalyDINO(tiny_clip).fit(good[:2]).bank.tokens) == 2 * 8 * 16


def test_distances_and_the_top_one_per_cent_equal_those_of_scikit_learn(tiny_clip, good):
    """256 patches, so that one per cent are two; with 16 it is the highest one."""
    for size, count in ((64, 1), (256, 2)):
        pictures = F.interpolate(good, (size, size))
        detector = AnomalyDINO(tiny_clip).fit(pictures[:1])
        peer = NearestNeighbors(n_neighbors=1, metric="cosine").fit(detector.bank.tokens.numpy())
        tokens = detector.features(pictures[3:]).detach().flatten(0, 1).numpy()
        distance = torch.tensor(peer.kneighbors(tokens)[0]).view(2, -1).float()
        _, scores = detector.score(pictures[3:])
        expected = distance.sort(descending=True).values[:, :count].mean(1)
        torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-6)


def test_a_rotated_product_is_good_and_a_pasted_defect_is_found_where_it_is(tiny_clip, good):
    detector = AnomalyDINO(tiny_clip).fit(good[:4])
    defective = good[4:].clone()
    defective[..., :16, 32:48] = 0.05
    pictures = torch.cat([good[4:], good[4:].rot90(1, (2, 3)), defective])
    maps, (plain, rotated, bad) = detector.score(pictures)
    assert rotated < 2 * plain and bad > 3 * max(plain, rotated)
    assert maps.shape == (3, 64, 64)
    row, column = divmod(maps[2].argmax().item(), 64)
    assert row < 24 and 28 < column < 52


def test_a_picture_that_is_no_square_is_rotated_without_distortion():
    picture = torch.zeros(3, 48, 96)
    picture[:, 20:28, 40:90] = 1                            # a bar, nearer to the right
    copies = rotated_about_centre(picture)
    assert copies.shape == (8, 3, 48, 96)
    inner = picture[:, :, 24:72].rot90(1, (1, 2))           # the square in the middle
    torch.testing.assert_close(copies[2][:, :, 24:72], inner, atol=1e-4, rtol=0)
    torch.testing.assert_close(copies[4], picture.rot90(2, (1, 2)), atol=1e-4, rtol=0)

"""Names of published models, as OpenAI and as open_clip write them."""
import pytest

from minilora.checkpoint.published import (OFFICIAL, OPEN_CLIP_NAMES, find_path,
                                           published_spelling)
from minilora.io import paths
from minilora.io.checkpoint_error import CheckpointError


@pytest.mark.parametrize("name", OPEN_CLIP_NAMES)
def test_open_clips_spelling_means_the_published_model(name, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "weights_folders", lambda: [tmp_path])
    monkeypatch.chdir(tmp_path)
    official = OFFICIAL[OPEN_CLIP_NAMES[name]]
    with pytest.raises(CheckpointError, match=f"expected {official.file}"):
        find_path(name)
    (tmp_path / official.file).write_bytes(b"PK\3\4 weights")
    assert find_path(name) == tmp_path / official.file == find_path(OPEN_CLIP_NAMES[name])


def test_a_file_or_folder_of_that_name_is_meant_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert published_spelling("ViT-B-16") == "ViT-B/16" and published_spelling(None) is None
    (tmp_path / "ViT-B-16").mkdir()
    assert published_spelling("ViT-B-16") == "ViT-B-16"

"""Files are found from a checkout and from an installed copy; importing the package stays light."""
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO

import minilora
from minilora.io import paths


def as_installed(monkeypatch, folder):
    """Pretend that the package is installed in `folder`/minilora."""
    package = folder / "minilora"
    package.mkdir(exist_ok=True)
    monkeypatch.setattr(paths, "PACKAGE", package)
    return package


def test_the_vocabulary_is_in_the_package_folder():
    assert paths.vocabulary_path().is_file()
    assert paths.vocabulary_path().parent == Path(minilora.__file__).parent


def test_a_checkout_searches_its_own_weights_first(monkeypatch, tmp_path):
    as_installed(monkeypatch, tmp_path)
    (tmp_path / "setup.py").touch()
    (tmp_path / "weights").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert paths.weights_folders() == [tmp_path / "weights", tmp_path / "cache" / "minilora"]
    assert paths.download_folder() == tmp_path / "weights"


def test_an_installed_copy_has_its_own_weights_and_downloads_to_the_cache(monkeypatch, tmp_path):
    package = as_installed(monkeypatch, tmp_path)
    (tmp_path / "weights").mkdir()                  # another package's folder in site-packages
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert paths.weights_folders() == [package / "weights", tmp_path / "cache" / "minilora"]
    assert paths.download_folder() == tmp_path / "cache" / "minilora"


@pytest.mark.parametrize("value", [None, "", "relative/path"])
def test_without_a_usable_xdg_folder_the_cache_is_in_the_home_folder(monkeypatch, tmp_path, value):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if value is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert paths.cache_folder() == tmp_path / ".cache" / "minilora"


def without_home(monkeypatch):
    def unknown():
        raise RuntimeError("Could not determine home directory.")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(paths.Path, "home", unknown)


def test_a_user_without_a_home_folder_has_no_cache(monkeypatch, tmp_path):
    package = as_installed(monkeypatch, tmp_path)
    without_home(monkeypatch)
    assert paths.home_folder() is None and paths.cache_folder() is None
    assert paths.weights_folders() == [package / "weights"]
    with pytest.raises(FileNotFoundError, match="no home folder; set XDG_CACHE_HOME"):
        paths.download_folder()


def test_importing_the_package_loads_no_torch():
    code = "import sys, minilora as m; print('torch' in sys.modules, m.__version__, dir(m))"
    out = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True,
                         check=True).stdout
    assert out.startswith("False 0.2.0") and "load_clip" in out and "Detector" in out


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Detektor'.*Detector, DetectorConfig, .*load_clip"):
        minilora.Detektor


def test_a_downloaded_checkpoint_is_not_packaged(monkeypatch):
    import setuptools
    seen = {}
    monkeypatch.setattr(setuptools, "setup", lambda **options: seen.update(options))
    runpy.run_path(str(REPO / "setup.py"))
    assert seen["version"] == minilora.__version__
    assert seen["package_dir"] == {"minilora.weights": "weights"}
    assert not any("*" in name for names in seen["package_data"].values() for name in names)
    assert paths.vocabulary_path().name in seen["package_data"]["minilora"]
    assert len(seen["install_requires"]) == 5


def test_the_demo_shows_what_is_found(capsys):
    paths.demo()
    assert 4 <= len(capsys.readouterr().out.splitlines()) <= 12

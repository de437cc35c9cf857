"""Only a regular file is opened, at once, and no more than a limit is read."""
import os
import socket

import pytest

from minilora.io.regular_file import NotRegularFileError, open_regular, read_regular


def test_pipes_devices_sockets_and_folders_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for path, kind in ((tmp_path / "pipe", "named pipe"), ("/dev/zero", "device"),
                           (tmp_path / "socket", "socket"), (tmp_path, "folder")):
            with pytest.raises(NotRegularFileError, match=f"is a {kind}, expected a regular file"):
                open_regular(path)
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    with pytest.raises(NotRegularFileError, match="named pipe"):
        open_regular(tmp_path / "link")


def test_a_link_is_followed_only_where_that_is_wanted(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link", 10) == b"content"
    with pytest.raises(NotRegularFileError, match="is a link"):
        read_regular(tmp_path / "link", 10, follow=False)


def test_a_larger_file_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 11)
    with pytest.raises(OSError, match="over 10 bytes"):
        read_regular(tmp_path / "file", 10)
    assert len(read_regular(tmp_path / "file", 11)) == 11

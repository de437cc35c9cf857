"""Serve a page that says OK or NG for pictures you drop, choose or photograph.

    python -m minilora.serve RUN            RUN: a run folder of minilora.fit

Prints the address to open; Ctrl-C ends it.  Without --host only this computer can open the page.
With another host, other devices of the network can (a phone, for example), if they know the
address: it contains a random token.

Left out: how a request is answered (serve/server.py).
"""
import argparse
import contextlib
import errno
import socket
from collections.abc import Callable

from minilora.data.decoding import megapixel_option
from minilora.io.cli import device_name, finite_number, option_parser, run_command, whole_number
from minilora.io.notes import take_notes
from minilora.io.parser import OneLineParser
from minilora.io.text import shown
from minilora.prediction.inputs import (SMALL_MODEL, open_with_threshold, threshold_options,
                                        uses_small_model)
from minilora.serve.access import LOCAL_NAMES, is_everywhere
from minilora.serve.page import PageFacts
from minilora.serve.server import PictureServer

DEFAULT_PORT = 8000
MAX_MEGABYTES = 20                  # default of --max-megabytes


def run_serve(options: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Serves until Ctrl-C.  Returns the exit status."""
    with start_server(options, say) as server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            server.ending = True
            with server.scoring:                            # the picture at hand is finished
                count = server.history.count
            say(f"\nstopped: {count} picture{'s' * (count != 1)}; the page's history has ended")
    return 0


def start_server(options: argparse.Namespace, say: Callable[[str], None]) -> PictureServer:
    """Opens the run, listens, and prints the address."""
    detector = open_with_threshold(options.run, options.model, options.device, None,
                                   options.threshold, options.false_positive_rate)
    small = uses_small_model(options.run)
    facts = PageFacts(detector.class_name, shown(options.run), len(detector.shot_pictures),
                      detector.threshold, options.max_megabytes, SMALL_MODEL if small else "")
    try:
        server = PictureServer(detector, facts, options.host, options.port,
                               round(options.max_megabytes * 1e6), say)
    except OSError as error:
        raise ValueError(cannot_listen(options.host, options.port, error)) from error
    for line in take_notes() + start_lines(server, small):
        say(line)
    return server


def start_lines(server: PictureServer, small: bool) -> list[str]:
    """What is printed first: the address, and what another host than this computer means."""
    access = server.access
    host = own_address() if is_everywhere(access.host) else access.host
    lines = [SMALL_MODEL] if small else []
    if access.host not in LOCAL_NAMES:
        lines += [f"WARNING: --host {shown(access.host)}: every device that reaches this computer "
                  "can open the page, if it knows the address below.",
                  "Pictures and the token travel unencrypted: use it only in a network that you "
                  "trust."]
    return [*lines, f"open  {access.address(host)}", "stop  Ctrl-C"]


def own_address() -> str:
    """The address of this computer in its network; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))                 # an address that nobody has
        except OSError:                                     # no network
            return LOCAL_NAMES[0]
        return probe.getsockname()[0]


def cannot_listen(host: str, port: int, error: OSError) -> str:
    """Why the server cannot start, and the remedy."""
    if error.errno == errno.EADDRINUSE:
        return (f"port {port} is in use by another program, perhaps another minilora serve; stop "
                "it, or give --port 0 for a free port")
    if error.errno == errno.EACCES:
        return f"port {port} needs special rights; give a port from 1024 on, or --port 0"
    return (f"cannot listen on {shown(host)}, port {port}: {shown(error.strerror)}; give --host "
            "127.0.0.1, or an address that this computer has")


def parser() -> OneLineParser:
    p = option_parser("minilora.serve", __doc__, "runs/mine")
    add, rare = p.add_argument, p.rare.add_argument
    add("run", help="a run folder of minilora fit")
    add("--port", metavar="N", type=whole_number(0, 65535), default=DEFAULT_PORT,
        help="0: a free port")
    add("--host", default=LOCAL_NAMES[0], help="address to listen on; 0.0.0.0: all")
    add("--max-megabytes", metavar="M", type=finite_number(0.001, 2000), default=MAX_MEGABYTES,
        help="largest upload")
    add("--device", metavar="NAME", default="auto", type=device_name, help="auto, cuda, mps, cpu")
    threshold_options(add)
    rare("--model", metavar="WEIGHTS", help="base weights, if the file of the fit has moved")
    megapixel_option(rare)
    return p


def print_if_read(line: str) -> None:
    """Prints; if nobody reads the output any more, the page goes on."""
    with contextlib.suppress(OSError):
        print(line, flush=True)


def main() -> int:
    return run_serve(parser().parse_args(), print_if_read)


def demo() -> None:
    """What is said if the server cannot start."""
    for code in (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL):
        print(cannot_listen("127.0.0.1", 80, OSError(code, "no such address")))


if __name__ == "__main__":
    run_command("minilora.serve", main)

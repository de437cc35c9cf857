"""Who may ask: only the page whose address was printed, on a name of this computer.

Claim: a server on 127.0.0.1 is reached by every web page that the user visits, and by every program
of every user of the computer.  Four checks keep strangers out:

    token    in every address, random; whoever does not know it gets nothing
    Host     names this computer.  A stranger's page can make its own name mean 127.0.0.1 (DNS
             rebinding) and would then count as the same site; the name shows in this header
    Origin   of a POST is this page itself, so no other page can send pictures
    headers  of each reply: the browser loads nothing from elsewhere, runs no script but the page's
             own, keeps no copy and sends the address (with the token) to nobody

Left out: encryption, users; whoever reads the network or the screen knows the token.
"""
import ipaddress
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import urlsplit

LOCAL_NAMES = ("127.0.0.1", "localhost")
HTTP_PORT = 80                      # browsers leave it out of the Host header


class RequestRefused(Exception):
    """A request that gets no answer but this status and its reason, in one line."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Access(NamedTuple):
    """Where the server listens, and what a request must know."""
    host: str                       # as given: 127.0.0.1, 0.0.0.0 for all, or a name
    port: int
    token: str

    def address(self, host: str) -> str:
        """The address to open in a browser, under this name of the computer."""
        name = f"[{host}]" if ":" in host else host
        return f"http://{name}:{self.port}/?token={self.token}"


def check_access(access: Access, method: str, target: str, headers: Mapping[str, str]) -> str:
    """The path of a request that may be answered.  Raises RequestRefused (403).

    target: path and query as sent;  headers: of the request.
    """
    host = headers.get("Host", "")
    if not is_own_name(host, access):
        raise RequestRefused(HTTPStatus.FORBIDDEN, "this name of the computer is not served; open "
                             "the address that minilora serve printed")
    path, _, query = target.partition("?")
    expected = f"token={access.token}"
    if not secrets.compare_digest(query.encode("utf-8", "replace"), expected.encode()):
        raise RequestRefused(HTTPStatus.FORBIDDEN, "the token is missing or wrong; open the whole "
                             "address that minilora serve printed, with ?token=")
    if method == "POST" and headers.get("Origin", f"http://{host}") != f"http://{host}":
        raise RequestRefused(HTTPStatus.FORBIDDEN, "another page has sent this; use the page of "
                             "minilora serve itself")
    return path


def is_own_name(header: str, access: Access) -> bool:
    """Whether a Host header names this server: "127.0.0.1:8000".

    A server on all addresses (0.0.0.0) takes any IP address: behind a number is no DNS.
    """
    try:
        found = urlsplit(f"//{header}")
        name, port = found.hostname or "", found.port or HTTP_PORT
    except ValueError:                                      # no such port, a cut-off [
        return False
    own = name in (*LOCAL_NAMES, access.host.lower()) or (is_everywhere(access.host)
                                                          and is_number(name))
    return own and port == access.port and found.netloc == header and "@" not in header


def is_number(host: str) -> bool:
    """Whether a host is an IP address, and not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_everywhere(host: str) -> bool:
    """Whether a server on this host listens on all addresses of the computer."""
    return is_number(host) and ipaddress.ip_address(host).is_unspecified


def safe_headers(nonce: str) -> dict[str, str]:
    """Headers of every reply.  nonce: the random word that marks the page's own script and style.
    """
    return {"Content-Security-Policy": f"default-src 'none'; script-src 'nonce-{nonce}'; "
            f"style-src 'nonce-{nonce}'; img-src data:; connect-src 'self'; base-uri 'none'; "
            "form-action 'none'; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-store"}


def demo() -> None:
    """Requests of the page itself, of a stranger's page, and of one that rebinds its name."""
    access = Access("127.0.0.1", 8000, "secret")
    print(access.address("127.0.0.1"))
    own, page = {"Host": "127.0.0.1:8000"}, "/score?token=secret"
    for target, headers in ((page, own), ("/score", own), (page, {"Host": "evil.example:8000"}),
                            (page, own | {"Origin": "http://evil.example"})):
        try:
            print("allowed:", check_access(access, "POST", target, headers))
        except RequestRefused as refusal:
            print(f"{refusal.status.value}: {refusal}")


if __name__ == "__main__":
    demo()

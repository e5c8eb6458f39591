"""The proxy and the certificates that every HTTP client of r1lab uses, and free ports."""

import ipaddress
import os
import re
import socket
import ssl
import urllib.request
from urllib.parse import urlsplit

from r1lab.errors import UserError

_SCHEMES = ("http", "https", "socks5", "socks5h")  # those that httpx can use


def client_settings(url: str) -> dict:
    """The arguments of an httpx client that sends requests to `url`. Proxies are those of the environment, but a
    request to this machine never goes through one.

    Raises:
        UserError: A proxy of the environment is invalid or unsupported, or its certificates cannot be read.
    """
    import httpx

    try:
        verify = httpx.create_ssl_context()  # reads SSL_CERT_FILE and SSL_CERT_DIR, which trust_env would switch off
    except (OSError, ssl.SSLError) as error:
        named = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
        raise UserError(f"SSL_CERT_FILE: {named}: cannot read certificates from it: {error}") from None
    local = is_loopback(urlsplit(url).hostname or "")
    if not local:
        _check_proxies()
    return {"verify": verify, "trust_env": not local}


def is_loopback(host: str) -> bool:
    """Whether a host is this machine.

    >>> [is_loopback(host) for host in ("localhost", "127.0.0.2", "::1", "0.0.0.0", "10.0.0.1", "localhost.org")]
    [True, True, True, True, False, False]
    """
    if host.rstrip(".").lower() == "localhost" or host.lower().endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a name
        return False
    return address.is_loopback or address.is_unspecified


def proxy_of(url: str) -> str | None:
    """The proxy that a request to `url` goes through, without its password; None where there is none."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    return proxy and _without_password(proxy)


def _check_proxies() -> None:
    for kind, proxy in urllib.request.getproxies().items():
        if kind not in ("http", "https", "all"):  # `no` is a list of hosts
            continue
        name = next((n for n in (f"{kind}_proxy", f"{kind}_proxy".upper()) if os.environ.get(n)), f"{kind}_proxy")
        shown = f"{name}: {_without_password(proxy)}"
        try:
            parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
            whole = bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:  # a port that is not a number, or half an IPv6 address
            parts, whole = None, False
        if parts is None or not whole:
            raise UserError(f"{shown}: not a proxy address: write it as in http://host:3128, or unset {name}")
        if parts.scheme not in _SCHEMES:
            instead = (
                f"socks5://{parts.netloc.rpartition('@')[2]}" if parts.scheme.startswith("socks") else "http://..."
            )
            raise UserError(f"{shown}: {parts.scheme}:// proxies are not supported: write {instead}, or unset {name}")
        if parts.scheme.startswith("socks"):
            try:
                import socksio  # noqa: F401  # pyright: ignore[reportMissingImports]  # an extra, [socks]
            except ImportError:
                why = "SOCKS proxies need a package"
                raise UserError(f"{shown}: {why}: pip install 'httpx[socks]', or unset {name}") from None


def _without_password(proxy: str) -> str:
    """
    >>> _without_password("http://me:secret@proxy:3128")
    'http://***@proxy:3128'
    """
    return re.sub(r"^([^/]*//)?[^@]*@", lambda match: f"{match[1] or ''}***@", proxy)


def own_address(towards: str) -> str:
    """The IPv4 address with which this machine sends to another one, or to itself; nothing is sent.

    >>> own_address("127.0.0.1")
    '127.0.0.1'
    """
    *how, _, address = socket.getaddrinfo(towards, 9, socket.AF_INET, socket.SOCK_DGRAM)[0]
    with socket.socket(*how) as probe:
        probe.connect(address)
        return probe.getsockname()[0]


def free_port() -> socket.socket:
    """A socket on a free port of this machine, which Linux gives to no other process while it is open.

    It does not listen, so that rank 0 can, some seconds later: torch's store reuses the address as well.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("", 0))
    return held

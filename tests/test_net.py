"""Proxies and certificates: what the environment says is used, or named in one line."""

import pytest

from r1lab import net
from r1lab.check import look
from r1lab.doctor import examine
from r1lab.errors import UserError


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    look.hub_reachable.cache_clear()
    yield monkeypatch
    look.hub_reachable.cache_clear()


def test_the_check_and_the_doctor_name_a_proxy_that_cannot_be_used(environment):
    environment.setenv("all_proxy", "socks://127.0.0.1:7891/")
    with pytest.raises(UserError, match="^all_proxy: socks://127.0.0.1:7891/: socks:// proxies are not supported"):
        look.hub_reachable()
    why, _ = examine.ask_hub()
    assert why.startswith("all_proxy: socks://127.0.0.1:7891/") and "\n" not in why


def test_proxies_that_can_be_used_are_left_to_the_client(environment):
    assert net.client_settings("https://huggingface.co")["trust_env"] is True
    environment.setenv("HTTPS_PROXY", "proxy.example:3128")  # without a scheme, which is http then
    environment.setenv("no_proxy", "localhost,.example.org")
    assert net.client_settings("https://huggingface.co")["trust_env"] is True
    assert net.client_settings("http://127.0.0.1:8000/v1")["trust_env"] is False
    assert net.client_settings("http://[::1]:8000/v1")["trust_env"] is False


def test_the_proxy_of_an_address(environment):
    assert net.proxy_of("http://judge.example/v1") is None
    environment.setenv("http_proxy", "http://me:secret@proxy:3128")
    assert net.proxy_of("http://judge.example/v1") == "http://***@proxy:3128"
    assert net.proxy_of("https://judge.example/v1") is None
    assert net.proxy_of("http://localhost:8000/v1") is None
    environment.setenv("no_proxy", "judge.example")
    assert net.proxy_of("http://judge.example/v1") is None

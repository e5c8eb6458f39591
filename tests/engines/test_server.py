"""The server engine: against a local server that misbehaves in all the ways that servers do."""

import json
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from r1lab.engines import Sampling, generate
from r1lab.engines.address import models_served
from r1lab.engines.replies import Failure
from r1lab.engines.server import ServerEngine
from r1lab.errors import UserError
from tests.engines.conftest import free_port, serving

NOT_FOUND = (404, b"Not Found", {})


@contextmanager
def server(answer, models=lambda: ["teacher"], tls=None):
    """A server whose `answer(body, number)` gives a reply, or `(status, reply, headers)`; bytes are sent as they are.

    Args:
        models: Gives the names that `/models` lists, or a reply as above.
        tls: An `ssl.SSLContext`, for https.

    Yields:
        Its URL and the list of requests, which fills up.
    """
    requests, lock, now = [], threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            listed = models()
            if isinstance(listed, list):
                listed = {"data": [{"id": name} for name in listed]}
            self.reply(listed if self.path == "/v1/models" else NOT_FOUND)

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                now[0] += 1
                requests.append({"path": self.path, "headers": self.headers, "body": body, "at_once": now[0],
                                 "time": time.monotonic()})  # fmt: skip
                number = len(requests)
            reply = answer(body, number)
            with lock:
                now[0] -= 1
            self.reply(reply)

        def reply(self, reply):
            status, content, headers = reply if isinstance(reply, tuple) else (200, reply, {})
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            try:
                self.send_response(status)
                length = {} if "Transfer-Encoding" in headers else {"Content-Length": str(len(data))}
                for name, value in (length | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)
                if headers:
                    self.close_connection = True
            except OSError:  # the client has gone
                pass

        def log_message(self, *arguments):
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as httpd:
        if tls:
            httpd.socket = tls.wrap_socket(httpd.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=httpd.serve_forever, args=[0.01], daemon=True)
        thread.start()
        try:
            yield f"http{'s' if tls else ''}://127.0.0.1:{httpd.server_port}/v1", requests
        finally:
            httpd.shutdown()
            thread.join()


def echo(body, number=0):
    """A whole answer: `n` choices that say the prompt."""
    choices = []
    for i in range(body["n"]):
        if "messages" in body:
            choice = {"message": {"role": "assistant", "content": body["messages"][-1]["content"]}}
        else:
            choice = {"text": body["prompt"]}
        choices.append({"index": i, "finish_reason": "stop", **choice})
    return {"choices": choices, "usage": {"completion_tokens": 7 * body["n"]}}


def engine(url, **settings):
    return ServerEngine(url, "teacher", **{"backoff": 0.01, "timeout": 10, **settings})


def texts(groups):
    return [[completion.text for completion in group] for group in groups]


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def test_what_is_sent(monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", "sk-secret")
    messages = [{"role": "user", "content": "two"}]
    with server(echo) as (url, requests):
        teacher = engine(f"{url}/", api_key_env="TEACHER_KEY", extra_body={"reasoning_effort": "low"})
        groups = generate(teacher, ["one", messages], Sampling(n=3, max_tokens=99, temperature=0.6, top_p=0.95))
        generate(engine(url), ["\ud800 é"], Sampling(top_k=20))
    assert texts(groups) == [["one"] * 3, ["two"] * 3] and groups[0][0].token_ids == [] == groups[0][0].logprobs
    first, second, third = sorted(requests[:2], key=lambda r: r["path"], reverse=True) + requests[2:]
    assert (first["path"], second["path"]) == ("/v1/completions", "/v1/chat/completions")
    sampling = {"model": "teacher", "n": 3, "max_tokens": 99, "temperature": 0.6, "top_p": 0.95, "top_k": -1,
                "repetition_penalty": 1.0, "min_p": 0.0, "return_token_ids": True,
                "reasoning_effort": "low"}  # fmt: skip
    assert first["body"] == sampling | {"prompt": "one", "add_special_tokens": False}
    assert second["body"] == sampling | {"messages": messages}
    assert third["body"]["top_k"] == 20 and third["body"]["prompt"] == "\ud800 é"
    assert first["headers"]["Authorization"] == "Bearer sk-secret" and third["headers"]["Authorization"] is None


def test_order_is_kept_and_no_more_are_sent_at_a_time_than_may_be():
    def answer(body, number):
        time.sleep(0.05 if number % 3 == 1 else 0.01)
        return echo(body)

    prompts = [str(i) for i in range(40)]
    with server(answer) as (url, requests):
        assert texts(generate(engine(url, max_concurrent=4), prompts, Sampling())) == [[prompt] for prompt in prompts]
        assert max(request["at_once"] for request in requests) == 4
        arrived = list(engine(url, max_concurrent=4).stream(prompts, Sampling()))
    assert sorted(i for i, _ in arrived) == list(range(40)) and arrived != sorted(arrived, key=lambda item: item[0])
    assert all(group[0].text == prompts[i] for i, group in arrived)
    assert generate(engine("http://127.0.0.1:9"), [], Sampling()) == []


def test_requests_are_spread_over_the_minute():
    with server(echo) as (url, requests):
        generate(engine(url, requests_per_minute=1200), ["?"] * 8, Sampling())
    times = sorted(request["time"] for request in requests)
    assert times[-1] - times[0] >= 0.3  # 7 of 50 ms each, less what the server is late for the first


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
def test_thinking_is_put_back(key):
    def answer(body, number):
        said = {"role": "assistant", "content": "\n\n4", key: "\n2 + 2\n"}
        cut = {"role": "assistant", "content": None, key: "2 +"}
        return {"choices": [{"message": said, "finish_reason": "stop", "token_ids": [5, 6]},
                            {"message": cut, "finish_reason": "length"}]}  # fmt: skip

    with server(answer) as (url, _):
        ((whole, cut),) = generate(engine(url), [[{"role": "user", "content": "?"}]], Sampling(n=2))
    assert (whole.text, whole.truncated, whole.token_ids) == ("<think>\n2 + 2\n</think>\n\n4", False, [5, 6])
    assert (cut.text, cut.truncated, cut.token_ids) == ("<think>\n2 +", True, [])


def choice(**fields):
    return {"choices": [{"text": "half", "finish_reason": "stop", **fields}]}


RUBBISH = {
    "connection closed": (200, b"", {"Content-Length": "10"}),
    "body cut half-way": (200, json.dumps(choice()).encode()[:30], {"Content-Length": "90"}),
    "chunks cut half-way": (200, b'20\r\n{"choices": [{"text', {"Transfer-Encoding": "chunked"}),
    "JSON cut half-way": json.dumps(choice()).encode()[:30],
    "not JSON": b"<html>\n<h1>It works!</h1></html>",
    "not UTF-8": json.dumps(choice(), ensure_ascii=False).encode().replace(b"half", b"\xff\xfe"),
    "not gzip": (200, b"{}", {"Content-Encoding": "gzip"}),
    "empty": b"",
    "nested": b"[" * 100_000,
    "null": None,
    "a list": [choice()],
    "no choices": {"object": "text_completion"},
    "choices of none": {"choices": []},
    "choices of null": {"choices": [None]},
    "an error with status 200": {"error": {"message": "overloaded", "code": 503}},
    "no text": {"choices": [{"finish_reason": "stop"}]},
    "text of null": choice(text=None),
    "text of another type": choice(text=["half"]),
    "message of null": {"choices": [{"message": None, "finish_reason": "stop"}]},
    "no finish_reason": {"choices": [{"text": "half"}]},
    "finish_reason of null": choice(finish_reason=None),
    "aborted": choice(finish_reason="abort"),
    "finish_reason of another type": choice(finish_reason=["stop"]),
    "429": (429, {"error": {"message": "slow down"}}, {}),
    "500": (500, b"Internal Server Error", {}),
    "503": (503, {"detail": "loading"}, {"Retry-After": "soon"}),
    "408": (408, b"", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", RUBBISH)
def test_rubbish_is_reported_in_a_line_and_requested_again(name, capsys):
    with server(lambda body, number: RUBBISH[name] if number < 3 else echo(body)) as (url, requests):
        assert texts(generate(engine(url), ["whole"], Sampling())) == [["whole"]]
    assert len(requests) == 3
    (line,) = capsys.readouterr().out.splitlines()  # the same one is printed once
    assert line.startswith(f"warning: {url}: ") and line.endswith("; retrying") and len(line) < 400


@pytest.mark.parametrize("name", RUBBISH)
def test_rubbish_that_does_not_end_is_a_failure_and_never_half_an_answer(name):
    with server(lambda body, number: RUBBISH[name] if body["prompt"] == "bad" else echo(body)) as (url, requests):
        arrived = dict(engine(url, retries=1, max_failed=1.0).answers(["bad", "good"], Sampling()))
        with pytest.raises(
            UserError, match=r"^rollout.url: http://[^\n]*\(1 of [12] prompts failed\); [^\n]+$"
        ) as ended:
            generate(engine(url, retries=0), ["bad", "good"], Sampling())
    assert isinstance(arrived[0], Failure) and arrived[1][0].text == "good"
    assert ended.value.status == 1


def test_a_prompt_that_the_server_refuses_is_left_out_and_logged_with_the_reason(capsys):
    def answer(body, number):
        return (400, {"error": {"message": "This prompt is\n too long."}}, {}) if body["prompt"] == "x" else echo(body)

    with server(answer) as (url, requests):
        assert dict(engine(url, max_failed=1.0).stream(["good", "x", "fine"], Sampling())).keys() == {0, 2}
    (line,) = capsys.readouterr().out.splitlines()
    assert line == f"warning: {url}: prompt 2 of 3 is left out: HTTP 400: This prompt is too long."


def test_a_server_that_hangs_is_asked_again(capsys):
    def answer(body, number):
        time.sleep(1.5 if number == 1 else 0)
        return echo(body)

    with server(answer) as (url, _):
        assert texts(generate(engine(url, timeout=0.5), ["whole"], Sampling())) == [["whole"]]
    assert "no complete response in 0.5 s; retrying" in capsys.readouterr().out


@pytest.mark.parametrize("header", ["1", "date"])
def test_retry_after_is_honoured_by_all(header):
    def answer(body, number):
        after = formatdate(time.time() + 2, usegmt=True) if header == "date" else header
        return (429, b"", {"Retry-After": after}) if number == 1 else echo(body)

    with server(answer) as (url, requests):
        generate(engine(url, max_concurrent=1), ["a", "b"], Sampling())
    assert requests[1]["time"] - requests[0]["time"] >= 0.9


def test_a_wait_longer_than_the_timeout_is_a_failure():
    with server(lambda body, number: (429, {"error": {"message": "quota"}}, {"Retry-After": "86400"})) as (
        url,
        requests,
    ):
        with pytest.raises(UserError, match="HTTP 429: quota .*; set rollout.requests_per_minute"):
            generate(engine(url), ["?"], Sampling())
    assert len(requests) == 1


def test_a_prompt_that_is_refused_is_not_sent_again_and_stops_nothing():
    def answer(body, number):
        return (400, {"error": {"message": "This prompt is\n too long."}}, {}) if body["prompt"] == "x" else echo(body)

    prompts = ["good", *"x" * 15, "good"]
    with server(answer) as (url, requests):
        arrived = dict(engine(url, max_concurrent=1, max_failed=1.0).answers(prompts, Sampling()))
        assert len(requests) == len(prompts) == len(arrived)
        assert str(arrived[1]) == "HTTP 400: This prompt is too long." and arrived[16][0].text == "good"
        with pytest.raises(UserError, match=r"too long\. \(4 of 5 prompts failed\); fix what the error names"):
            list(engine(url, max_concurrent=1, max_failed=0.2).answers(prompts, Sampling()))


def test_ten_failures_in_a_row_end_the_run_with_what_had_arrived():
    prompts = [str(i) for i in range(100)]
    arrived = []
    with server(lambda body, number: echo(body) if number <= 20 else (503, b"going\ndown", {})) as (url, _):
        with pytest.raises(
            UserError, match=r"HTTP 503: going down \(10 of 30 prompts failed\); check the server's log"
        ):
            for i, group in engine(url, max_concurrent=2, retries=0, max_failed=1.0).answers(prompts, Sampling()):
                arrived += [] if isinstance(group, Failure) else [i]
    assert arrived and sorted(arrived) == list(range(20))


def test_what_arrived_while_the_caller_was_busy_is_yielded_before_the_end():
    arrived = []
    with server(lambda body, number: (400, b"", {}) if number == 2 else echo(body)) as (url, _):
        with pytest.raises(UserError, match="HTTP 400"):
            for i, _ in engine(url, max_concurrent=1).stream(["a", "b", "c", "d"], Sampling()):
                arrived.append(i)
                time.sleep(0.5)
    assert arrived == [0, 2, 3]


def test_n_that_is_refused_is_found_out_once(capsys):
    def answer(body, number):
        return (400, {"error": "only one choice is allowed"}, {}) if body["n"] > 1 else echo(body)

    with server(answer) as (url, requests):
        teacher = engine(url, max_concurrent=1, extra_body={"seed": 5})
        assert texts(generate(teacher, ["a", "b"], Sampling(n=3))) == [["a"] * 3, ["b"] * 3]
    assert [request["body"]["n"] for request in requests] == [3, 1, 1, 1, 1, 1, 1]
    assert [request["body"]["seed"] for request in requests[4:]] == [5, 6, 7]
    assert capsys.readouterr().out.count("requesting completions one by one") == 1


def test_fewer_choices_than_n_are_asked_for_one_by_one():
    with server(lambda body, number: echo(body | {"n": 1})) as (url, requests):
        assert texts(generate(engine(url, max_concurrent=1), ["a", "b"], Sampling(n=2))) == [["a", "a"], ["b", "b"]]
    assert len(requests) == 5


def test_a_prompt_that_is_refused_does_not_end_n_at_once():
    with server(lambda body, number: (400, b"", {}) if body["prompt"] == "x" else echo(body)) as (url, requests):
        list(engine(url, max_concurrent=1, max_failed=1.0).answers(["good", "x", "good"], Sampling(n=4)))
    assert [request["body"]["n"] for request in requests] == [4, 4, 1, 4]


def test_fields_that_openai_does_not_know_are_left_out_where_they_are_refused(capsys):
    known = ("model", "prompt", "messages", "n", "max_tokens", "temperature", "top_p")

    def answer(body, number):
        unknown = [name for name in body if name not in known]
        return (400, {"error": {"message": f"Unrecognized: {unknown[0]}"}}, {}) if unknown else echo(body)

    with server(answer) as (url, requests):
        teacher = engine(url, max_concurrent=1)
        assert texts(generate(teacher, ["a", "b"], Sampling())) == [["a"], ["b"]]
        assert len(requests) == 7  # five refused, and two answers
        with pytest.raises(UserError, match="Unrecognized: top_k"):  # one that was asked for is not
            generate(teacher, ["a"], Sampling(top_k=20))
    assert len(capsys.readouterr().out.splitlines()) == 5


def picky(refuses, known=("max_tokens", "max_completion_tokens", "temperature", "top_p")):
    """A server that refuses fields as OpenAI's does, each with a message of its own."""
    base = {"model", "prompt", "messages", "n", *known}

    def answer(body, number):
        for name in body:
            if name not in base:
                return (400, {"error": {"message": f"Unrecognized request argument supplied: {name}"}}, {})
            if name in refuses:
                return (400, {"error": {"message": refuses[name]}}, {})
        return echo(body)

    return answer


MAX_TOKENS = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."
TEMPERATURE = "Unsupported value: 'temperature' does not support 0.6. Only the default (1) value is supported."


def test_a_model_that_calls_the_limit_otherwise_and_has_a_temperature_of_its_own(capsys):
    refuses = {"max_tokens": MAX_TOKENS, "temperature": TEMPERATURE}
    with server(picky(refuses)) as (url, requests):
        teacher = engine(url, max_concurrent=1)
        assert texts(generate(teacher, ["a", "b"], Sampling(max_tokens=7, temperature=0.6))) == [["a"], ["b"]]
    last = requests[-1]["body"]
    assert last["max_completion_tokens"] == 7 and "max_tokens" not in last and "temperature" not in last
    assert len(requests) == 5 + 2 + 2  # fields refused, the two above, and two answers: it is found out once
    printed = capsys.readouterr().out
    assert printed.count("does not support max_tokens: max_completion_tokens is sent instead") == 1
    assert printed.count("does not support temperature: 0.6") == 1
    assert teacher.notes == [f"{url}: does not support temperature: 0.6, so it samples with its own temperature"]


def test_temperature_and_top_p_that_exclude_each_other_lose_the_harmless_one():
    said = "`temperature` and `top_p` cannot both be specified for this model. Please use only one."

    def answer(body, number):
        return (400, {"error": {"message": said}}, {}) if {"temperature", "top_p"} <= set(body) else echo(body)

    with server(answer) as (url, requests):
        assert texts(generate(engine(url), ["a"], Sampling(temperature=0.6))) == [["a"]]
    assert requests[-1]["body"]["temperature"] == 0.6 and "top_p" not in requests[-1]["body"]


@pytest.mark.parametrize(
    "said", ["temperature must be between 0 and 2", "max_tokens is too large: 9 (max_completion_tokens too)"]
)
def test_a_wrong_value_is_a_failure_and_teaches_nothing(said, capsys):
    def answer(body, number):
        return (400, {"error": {"message": said}}, {}) if body["prompt"] == "x" else echo(body)

    with server(answer) as (url, requests):
        teacher = engine(url, max_concurrent=1, max_failed=1.0)
        arrived = dict(teacher.answers(["x", "good"], Sampling(max_tokens=9, temperature=3.0)))
    assert said in str(arrived[0]) and arrived[1][0].text == "good"
    assert requests[-1]["body"]["temperature"] == 3.0 and requests[-1]["body"]["max_tokens"] == 9
    assert not teacher.notes and "is sent instead" not in capsys.readouterr().out


def test_an_opening_tag_that_was_put_back_is_noted():
    def answer(body, number):
        return {"choices": [{"message": {"content": "two and two</think>4"}, "finish_reason": "stop"}]}

    with server(answer) as (url, _):
        teacher = engine(url)
        found = texts(generate(teacher, [[{"role": "user", "content": "?"}]] * 2, Sampling()))
    assert found == [["<think>\ntwo and two</think>4"]] * 2
    (note,) = teacher.notes
    assert note == f"{url}: its chat template opens the thinking, so <think> was put back into its responses"


PROXIES = ["http_proxy", "https_proxy", "all_proxy", "no_proxy"]


@pytest.fixture
def proxies(monkeypatch):
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.mark.parametrize("name", ["http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks://127.0.0.1:9", "rubbish://"])
def test_this_machine_is_never_asked_through_a_proxy(proxies, name, proxy):
    with server(echo) as (url, _):
        proxies.setenv(name, proxy)
        for here in (url, url.replace("127.0.0.1", "localhost")):
            assert models_served(here, "teacher") == ["teacher"]
            assert texts(generate(engine(here), ["a"], Sampling())) == [["a"]]


@pytest.mark.parametrize(
    "name, proxy, said",
    [("all_proxy", "socks://127.0.0.1:7891/", "all_proxy: socks://127.0.0.1:7891/.*write socks5://127.0.0.1:7891"),
     ("HTTPS_PROXY", "ftp://me:secret@proxy:1", r"HTTPS_PROXY: ftp://\*\*\*@proxy:1.*write http://"),
     ("http_proxy", "http://", "http_proxy: http://: not a proxy address"),
     ("http_proxy", "http://proxy:port", "http_proxy: http://proxy:port: not a proxy address")],
)  # fmt: skip
def test_a_proxy_that_cannot_be_used_is_named_in_a_line(proxies, name, proxy, said):
    proxies.setenv(name, proxy)
    for ask in (lambda: models_served("http://judge.example/v1", "x"), lambda: engine("http://judge.example/v1")):
        with pytest.raises(UserError, match=f"^{said}.*unset {name}$") as ended:
            ask()
        assert "secret" not in str(ended.value) and "\n" not in str(ended.value)


def test_a_proxy_that_is_down_is_named(proxies):
    proxies.setenv("http_proxy", f"http://me:secret@127.0.0.1:{free_port()}")
    with pytest.raises(UserError, match=r"through the proxy http://\*\*\*@127.0.0.1:\d+; .*no_proxy=judge.example"):
        models_served("http://judge.example/v1", "teacher")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate that nobody has signed, with its key, for this machine."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", "key.pem",
                    "-out", "cert.pem", *names], cwd=folder, check=True, capture_output=True)  # fmt: skip
    return folder


def test_a_certificate_that_is_not_trusted_is_told_in_a_line_and_can_be(certificate, monkeypatch):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    with server(echo, tls=context) as (url, requests):
        said = f"^rollout.url: {url}: its certificate is not trusted: self-signed certificate.*; set SSL_CERT_FILE to"
        with pytest.raises(UserError, match=said):
            models_served(url, "teacher", wait=30)  # which no waiting would change
        with pytest.raises(UserError, match=said):
            list(engine(url, max_concurrent=1, max_failed=1.0).answers(["a"] * 50, Sampling()))
        assert requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
        assert models_served(url, "teacher") == ["teacher"]
        assert texts(generate(engine(url), ["a"], Sampling())) == [["a"]]
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "missing.pem"))
    with pytest.raises(UserError, match="^SSL_CERT_FILE: .*missing.pem: cannot read certificates from it"):
        models_served(url, "teacher")


def test_https_where_only_http_is_spoken():
    with server(echo) as (url, _):
        with pytest.raises(UserError, match="the server does not use https on this port; use http:// in rollout.url"):
            models_served(url.replace("http:", "https:"), "teacher")


@pytest.mark.parametrize(
    ("status", "advice"),
    [(401, "set the environment variable OPENAI_API_KEY to its key"),
     (404, "set model.path to a model that it serves: mentor, tutor"), (301, "up to and including /v1")],
)  # fmt: skip
def test_a_wrong_request_ends_the_run_at_once(status, advice):
    with server(lambda body, number: (status, b"no", {}), models=lambda: ["mentor", "tutor"]) as (url, requests):
        with pytest.raises(UserError, match=f"HTTP {status}: no .*; .*{advice}"):
            list(engine(url, max_concurrent=1, max_failed=1.0).answers(["?"] * 100, Sampling()))
    assert len(requests) <= 2


def test_the_key_is_never_shown(monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\n")
    long = "x" * 245

    def answer(body, number):
        said = [f"{long} sk-secret", "sk-secret", "Incorrect API key: sk-secret"][min(number, 3) - 1]
        return (503 if number < 3 else 401, said.encode(), {})

    with server(answer) as (url, requests):
        with pytest.raises(UserError, match=r"API key: \*\*\* ") as ended:
            generate(engine(url), ["?"], Sampling())
    told = capsys.readouterr().out + str(ended.value)
    assert requests[0]["headers"]["Authorization"] == "Bearer sk-secret" and "sk-" not in told and "***" in told
    monkeypatch.setenv("OPENAI_API_KEY", "sk-se\ncret")
    with pytest.raises(UserError, match="^OPENAI_API_KEY: this environment") as ended:
        engine(url)
    assert "sk-" not in str(ended.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_that_is_down(host, capsys):
    port = free_port()
    url = f"http://{host}:{port}/v1"
    expected = f"^rollout.url: {url}: Connection refused.*; start a server .*`vllm serve teacher --port {port}`"
    with pytest.raises(UserError, match=expected):
        models_served(url, "teacher")
    with pytest.raises(UserError, match=expected):
        list(engine(url, retries=1, max_failed=1.0).answers(["?"] * 3, Sampling()))
    with pytest.raises(UserError, match="not known|resolution|No address"):
        models_served("http://no-such-host.invalid/v1", "teacher")


def test_check():
    with server(echo, models=lambda: ["teacher", "llama3:latest", "models/gemini-pro"]) as (url, _):
        assert models_served(url, "teacher")[0] == "teacher"
        models_served(url, "llama3"), models_served(url, "gemini-pro")
        with pytest.raises(UserError, match=r"no model techer \(did you mean `teacher`\?\); set .*: teacher, llama3"):
            models_served(url, "techer")
        with pytest.raises(UserError, match=f"HTTP 404: Not Found; set rollout.url to {url}$"):
            models_served(url.removesuffix("/v1"), "teacher")
    with server(echo, models=lambda: NOT_FOUND) as (url, _):
        assert models_served(url, "teacher") == []  # not every server has a list
    with server(echo, models=lambda: []) as (url, _), pytest.raises(UserError, match="/models lists no models"):
        models_served(url, "teacher")
    for url in ("localhost:8000/v1", "http://", "ftp://host/v1", "http://host:port/v1"):
        with pytest.raises(UserError, match="is not a server.s address, such as http://localhost:8000/v1"):
            models_served(url, "teacher")


def test_check_waits_for_a_server_that_starts(capsys):
    began = time.monotonic()
    with pytest.raises(UserError, match="Connection refused"):
        models_served(f"http://127.0.0.1:{free_port()}/v1", "teacher", wait=1)
    assert 0.9 < time.monotonic() - began < 5
    up_at = time.monotonic() + 1
    loading = (503, {"error": "loading"}, {})
    with server(echo, models=lambda: loading if time.monotonic() < up_at else ["teacher"]) as (url, _):
        assert models_served(url, "teacher", wait=30) == ["teacher"]
    told = capsys.readouterr().out
    assert re.search(r": Connection refused \(for up to [01] s more\)", told)
    assert re.search(rf"{url}: HTTP 503: loading \(for up to \d+ s more\)", told)


def test_requests_end_when_the_caller_stops():
    gone = threading.Event()

    def answer(body, number):
        if number > 2:
            gone.wait(30)
        return echo(body)

    with server(answer) as (url, requests):
        stream = engine(url, max_concurrent=2, timeout=60).stream(["?"] * 9, Sampling())
        next(stream), next(stream)
        started = time.monotonic()
        stream.close()
        assert time.monotonic() - started < 2
        gone.set()
        time.sleep(0.2)
        assert len(requests) <= 4 and not [t for t in threading.enumerate() if t.name.startswith("server engine")]


INTERRUPTED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with SIGINT ignored
from r1lab.engines import Sampling
from r1lab.engines.server import ServerEngine
teacher = ServerEngine(sys.argv[1], "teacher", max_concurrent=4)
for i, group in teacher.stream([str(i) for i in range(50)], Sampling()):
    print(i, group[0].text, flush=True)
"""


def test_ctrl_c_leaves_what_had_arrived():
    forever = threading.Event()

    def answer(body, number):
        if int(body["prompt"]) >= 20:
            forever.wait(60)
        return echo(body)

    with server(answer) as (url, _):
        child = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTED, url], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        lines = [child.stdout.readline().split() for _ in range(20)]
        child.send_signal(signal.SIGINT)
        started = time.monotonic()
        rest, error = child.communicate(timeout=30)
        forever.set()
    assert sorted(lines) == sorted([str(i).encode()] * 2 for i in range(20)) and rest == b""
    assert time.monotonic() - started < 5 and error.splitlines()[-1] == b"KeyboardInterrupt"
    assert b"exception was never retrieved" not in error and b"Exception ignored" not in error


@pytest.fixture(scope="module")
def vllm_server(tmp_path_factory):
    """vLLM's own server with the embedded base, as `embedded:tiny-qwen2`."""
    from r1lab.models.loading import resolve

    name = "embedded:tiny-qwen2"
    with serving(resolve(name), name, tmp_path_factory.mktemp("vllm") / "log.txt") as url:
        yield url, name


@pytest.mark.slow
def test_vllms_own_server(vllm_server):
    from r1lab.models.loading import load_tokenizer

    url, name = vllm_server
    tokenizer = load_tokenizer(name)
    teacher = ServerEngine(url, name)
    messages = [{"role": "user", "content": "Who is a knight?"}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    for group in generate(teacher, [messages, rendered], Sampling(n=3, max_tokens=20)):
        assert len(group) == 3
        for completion in group:
            assert 1 <= len(completion.token_ids) <= 20
            text = tokenizer.decode(completion.token_ids, skip_special_tokens=True)
            assert text.rstrip("\ufffd") == completion.text.rstrip("\ufffd")  # cut within a letter
            assert completion.truncated == (tokenizer.eos_token_id not in completion.token_ids)
    greedy = [
        group[0].text for group in generate(teacher, [messages, rendered], Sampling(max_tokens=20, temperature=0.0))
    ]
    assert greedy[0] == greedy[1] and not teacher.left_out and not teacher.one_by_one
    with pytest.raises(UserError, match="set model.path to a model that it serves: embedded:tiny-qwen2"):
        generate(ServerEngine(url, "other"), ["?"], Sampling())
    with pytest.raises(UserError, match="HTTP 400: .*context length.*; fix what the error names"):
        generate(teacher, ["knight " * 1000], Sampling())

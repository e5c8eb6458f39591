"""Several servers as one engine: they share the requests, and the others answer what one that dies leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager

import pytest

from r1lab.engines import Completion, Sampling, connect, generate
from r1lab.errors import UserError
from tests.engines.conftest import free_port
from tests.engines.test_server import echo, engine, server

PROMPTS = [f"question {i}" for i in range(40)]
SAMPLING = Sampling(n=2, max_tokens=8)
ANSWERS = [[Completion(prompt, [], False)] * 2 for prompt in PROMPTS]

# A server in a process of its own, which can be killed: it says the prompt, and writes down each one.
PROCESS = """
import json, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.reply({"data": [{"id": "teacher"}]})
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with open(sys.argv[2], "a") as file:
            file.write(json.dumps(body["prompt"]) + "\\n")
        time.sleep(0.02)
        choice = {"text": body["prompt"], "finish_reason": "stop"}
        self.reply({"choices": [choice] * body["n"]})
    def reply(self, content):
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def log_message(self, *arguments):
        pass

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@contextmanager
def process(log):
    """A server in a process of its own; yields the process and the server's URL."""
    port = free_port()
    child = subprocess.Popen([sys.executable, "-c", PROCESS, str(port), str(log)])
    try:
        yield child, f"http://127.0.0.1:{port}/v1"
    finally:
        child.kill()
        child.wait()


def wait_for(urls):
    while True:
        try:
            return connect(urls, "teacher", max_concurrent=4)
        except UserError:
            time.sleep(0.1)


def test_they_share_the_requests_and_each_has_its_own_limit():
    def slow(body, number):
        time.sleep(0.01)
        return echo(body)

    with server(slow) as (first, a), server(slow) as (second, b), server(slow) as (third, c):
        assert generate(engine([first, second, third], max_concurrent=2), PROMPTS, SAMPLING) == ANSWERS
    asked = [len(requests) for requests in (a, b, c)]
    assert sum(asked) == len(PROMPTS) and min(asked) >= 5
    assert max(request["at_once"] for requests in (a, b, c) for request in requests) <= 2


def test_one_that_fails_gets_no_further_requests(capsys):
    def failing(body, number):
        return echo(body) if number <= 3 else (503, b"overloaded", {})

    with server(failing) as (first, a), server(echo) as (second, b):
        assert generate(engine([first, second], max_concurrent=2), PROMPTS, SAMPLING) == ANSWERS
    assert len(a) <= 3 + 2 and len(b) >= len(PROMPTS) - 3
    assert f"warning: {first}: HTTP 503: overloaded; requesting from another server" in capsys.readouterr().out


def test_one_that_failed_is_tried_again_if_all_others_fail():
    def once(body, number):
        return (503, b"starting", {}) if number == 1 else echo(body)

    with server(once) as (first, _), server(once) as (second, _):
        assert generate(engine([first, second], max_concurrent=1), PROMPTS[:4], SAMPLING) == ANSWERS[:4]


def test_if_all_fail_the_error_names_one_of_them():
    def down(body, number):
        return 503, b"down", {}

    with server(down) as (first, a), server(down) as (second, b):
        with pytest.raises(
            UserError, match=rf"^rollout.url: ({first}|{second}): HTTP 503: down \(1 of 1 prompts failed"
        ):
            generate(engine([first, second], retries=1), PROMPTS[:1], SAMPLING)
    assert len(a) == len(b) == 2  # both in each attempt


def test_each_is_checked_before_the_first_request():
    with server(echo) as (first, requests):
        dead = f"http://127.0.0.1:{free_port()}/v1"
        with pytest.raises(UserError, match=f"^rollout.url: {dead}: Connection refused"):
            connect([first, dead], "teacher")
    assert not requests


def test_the_others_answer_what_a_killed_one_leaves(tmp_path):
    logs = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    with ExitStack() as stack:
        (first, one), (_, other) = [stack.enter_context(process(log)) for log in logs]
        found, prompts = {}, [f"question {i}" for i in range(120)]
        for i, group in wait_for([one, other]).stream(prompts, SAMPLING):
            found[i] = group
            if len(found) == 20:
                os.kill(first.pid, signal.SIGKILL)
    assert [found[i] for i in range(120)] == [[Completion(prompt, [], False)] * 2 for prompt in prompts]
    before, after = ([json.loads(line) for line in log.read_text().splitlines()] for log in logs)
    assert before and len(after) > len(before)

"""Traces from an OpenAI-compatible server: what was written stays, the rest is asked again, errors are one line."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from r1lab.engines import server as engine
from r1lab.errors import UserError
from r1lab.recipe import loading
from r1lab.rundir import storage
from r1lab.stages import sample


class Teacher(ThreadingHTTPServer):
    """Answers `2 + 3` with 5, the first `good` times; then as `bad` says."""

    daemon_threads = True

    def __init__(self, good=10**6, bad="rubbish"):
        super().__init__(("127.0.0.1", 0), Handler)
        self.good, self.bad, self.asked = good, bad, []
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        self._send(200, json.dumps({"data": [{"id": "teacher"}]}).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][-1]["content"]
        self.server.asked.append(question)
        if len(self.server.asked) <= self.server.good:
            text = f"<think> {question} </think> <answer> {eval(question)} </answer>"
            choices = [{"message": {"content": text}, "finish_reason": "stop"} for _ in range(body["n"])]
            self._send(200, json.dumps({"choices": choices, "usage": {"completion_tokens": 9}}).encode())
        elif self.server.bad == "half":
            self._send(200, b'{"choices": [{"message": {"content": "<think> 2', length=500)
        else:
            self._send(200, b"<html>busy</html>")

    def _send(self, status, body, length=None):
        self.send_response(status)
        self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)
        if length:
            self.close_connection = True


ROWS = [{"prompt": f"{a} + {b}", "answer": str(a + b)} for a in range(5) for b in range(8)]


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """A sample stage's recipe for a server's address, without the waits of a retry."""
    monkeypatch.setattr(engine.ServerEngine.__init__, "__kwdefaults__",
                        engine.ServerEngine.__init__.__kwdefaults__ | {"retries": 1, "backoff": 0.01})  # fmt: skip
    storage.write_jsonl(tmp_path / "rows.jsonl", ROWS)

    def load(url, model="teacher"):
        path = tmp_path / "r.yaml"
        path.write_text(
            f"stage: sample\nmodel: {{path: {model}}}\ndata: {{path: ./rows.jsonl}}\nprompt: {{template: open-r1}}\n"
            "rewards: [{name: exact_match}]\nkeep: {which: right}\n"
            f"rollout: {{engine: server, url: '{url}', num_generations: 1, max_concurrent: 4}}\n"
        )
        return loading.load([str(path)], inputs=True)

    return load


def test_right_answers_are_kept_with_their_row(tmp_path, loaded):
    teacher = Teacher()
    assert sample.run(loaded(teacher.url), tmp_path) == 0
    kept = storage.read_jsonl(tmp_path / "samples" / "samples.jsonl")
    assert [row["prompt"] for row in kept] == [row["prompt"] for row in ROWS]
    assert all(row["right"] and row["answer"] in row["completion"] for row in kept)
    assert not (tmp_path / "samples" / "partial.jsonl").exists()


@pytest.mark.parametrize("bad", ["rubbish", "half"])
def test_what_was_written_is_not_lost_and_only_the_rest_is_asked_again(tmp_path, loaded, bad):
    with pytest.raises(UserError) as caught:
        sample.run(loaded(Teacher(good=15, bad=bad).url), tmp_path)
    (problem,) = caught.value.problems
    assert problem.startswith("rollout.url: ") and "\n" not in problem
    partial = storage.read_jsonl(tmp_path / "samples" / "partial.jsonl")
    assert len(partial) == 15
    assert all("</answer>" in row["completions"][0]["text"] for row in partial)  # no half answer

    teacher = Teacher()
    assert sample.run(loaded(teacher.url), tmp_path) == 0
    done = {ROWS[row["row"]]["prompt"] for row in partial}
    assert sorted(teacher.asked) == sorted(row["prompt"] for row in ROWS if row["prompt"] not in done)
    assert len(storage.read_jsonl(tmp_path / "samples" / "samples.jsonl")) == len(ROWS)


def test_a_server_that_is_down_is_told_in_a_line(tmp_path, loaded):
    teacher = Teacher()
    teacher.shutdown()
    teacher.server_close()
    with pytest.raises(UserError) as caught:
        sample.run(loaded(teacher.url), tmp_path)
    (problem,) = caught.value.problems
    assert problem.startswith(f"rollout.url: {teacher.url}: ") and "vllm serve" in problem


def test_a_model_that_the_server_has_not_is_told_in_a_line(tmp_path, loaded):
    with pytest.raises(UserError, match="it has no model teacer.*teacher"):
        sample.run(loaded(Teacher().url, model="teacer"), tmp_path)


def test_a_grpo_stage_and_a_missing_address_are_refused(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("stage: sample\nmodel: {path: x/y}\ndata: {builder: arithmetic}\nrollout: {engine: server}\n")
    with pytest.raises(UserError, match="rollout.engine: server: needs `rollout.url`"):
        loading.load([str(path)])
    with pytest.raises(UserError, match="rollout.url: has no effect without rollout.engine: server"):
        loading.load([str(path), "rollout.engine=auto", "rollout.url=http://x/v1"])
    with pytest.raises(UserError, match="a grpo stage has vLLM servers of its own weights"):
        loading.load([str(path), "stage=grpo", "rewards=[{name: exact_match}]", "rollout.url=http://x/v1"])

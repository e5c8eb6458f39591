"""A teacher behind servers scores the tokens of a rollout like one in memory, through failures of a server."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from r1lab.errors import UserError
from r1lab.grpo import teacher_server
from r1lab.grpo.teacher_server import ServedTeacher, served_logps
from r1lab.models import loading
from tests.engines.conftest import serving

V = 50


def logps(ids):
    """Log-probabilities (T - 1, V) of a model that looks at the last token alone."""
    table = torch.randn(V, V, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    return table[ids[:-1]]


@pytest.fixture
def serve():
    """Starts a server with the answers of vLLM to `prompt_logprobs`; the first requests get the statuses given."""
    running = []

    def start(*statuses, change=lambda reply: reply, score=logps):
        left, seen = list(statuses), []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                seen.append(body)
                ids, status = body["prompt"], left.pop(0) if left else 200
                places = [{str(token): {"logprob": row[token].item()}} for token, row in zip(ids[1:], score(ids))]
                reply = change({"choices": [{"text": "x", "prompt_logprobs": [None, *places]}]})
                data = json.dumps(reply if status == 200 else {"error": "no such model"}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        running.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}/v1", seen

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def batch():
    g = torch.Generator().manual_seed(1)
    prompts, completions = torch.randint(V, (6, 4), generator=g), torch.randint(V, (6, 5), generator=g)
    prompt_mask, mask = (
        torch.ones_like(prompts),
        (torch.arange(5) < torch.tensor([[5], [1], [3], [0], [2], [4]])).long(),
    )
    prompt_mask[:3, :2] = 0
    return {"prompt_ids": prompts, "prompt_mask": prompt_mask, "completion_ids": completions, "completion_mask": mask}


def check(found):
    rows = batch()
    for i in range(6):
        ids = torch.cat([rows["prompt_ids"][i][rows["prompt_mask"][i].bool()], rows["completion_ids"][i]])
        expected = logps(ids.tolist())[-5:].gather(1, rows["completion_ids"][i][:, None]).squeeze(1)
        torch.testing.assert_close(found[i], expected * rows["completion_mask"][i])


def test_it_scores_the_tokens_of_completions(serve):
    url, seen = serve()
    check(served_logps(ServedTeacher(url, "big"), batch()))
    assert len(seen) == 5, "a completion without tokens needs no request"
    assert all(body["model"] == "big" and body["prompt_logprobs"] == 0 for body in seen)


def test_a_failure_is_repeated_at_the_next_server(serve, monkeypatch):
    monkeypatch.setattr(teacher_server, "BACKOFF", 0.001)
    (good, of_good), (bad, of_bad) = serve(), serve(*[503] * 100)
    check(served_logps(ServedTeacher([good, bad, "http://127.0.0.1:9/v1"], "big"), batch()))
    assert len(of_good) >= 5 and of_bad


@pytest.mark.parametrize(
    ("statuses", "change", "expected"),
    [
        ((404,), lambda reply: reply, "404"),
        ((500,) * 9, lambda reply: reply, "500"),
        ((), lambda reply: {"choices": [{"text": "x"}]}, "no prompt_logprobs of these tokens in its response"),
    ],
)
def test_what_does_not_help_to_repeat_is_one_line(serve, monkeypatch, statuses, change, expected):
    monkeypatch.setattr(teacher_server, "BACKOFF", 0.001)
    url, _ = serve(*statuses, change=change)
    with pytest.raises(UserError) as caught:
        ServedTeacher(url, "big").logps([([1, 2, 3], 2)])
    [line] = caught.value.problems
    assert line.startswith(f"teacher.url: {url}: ") and expected in line


@pytest.mark.slow
def test_vllms_own_server_scores_like_transformers(tmp_path):
    base, rows = "embedded:tiny-qwen2", batch()
    with serving(loading.resolve(base), "big", tmp_path / "log.txt") as url:
        found = served_logps(ServedTeacher(url, "big"), rows)
    model = loading.load_model(base, dtype="float32")
    for i in range(6):
        prompt = rows["prompt_ids"][i][rows["prompt_mask"][i].bool()]
        ids = torch.cat([prompt, rows["completion_ids"][i]])[None]
        with torch.no_grad():
            theirs = model(input_ids=ids).logits[0, -6:-1].log_softmax(-1)
        expected = theirs.gather(1, rows["completion_ids"][i][:, None]).squeeze(1) * rows["completion_mask"][i]
        torch.testing.assert_close(found[i], expected, atol=1e-3, rtol=1e-3)

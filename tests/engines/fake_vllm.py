"""A server with the endpoints of vLLM's that r1lab uses, whose tokens are random and whose weights are a number."""

import json
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from r1lab.engines.worker import total

LOGPROB = -1.5  # of every token, by default


class FakeVLLM(ThreadingHTTPServer):
    """Samples `vocabulary`, and a stop token one time in ten; without a seed, each request draws others.

    Attributes:
        version: Of its weights.
        requests: The bodies of the completion requests so far.
        logprob: The log-probability of every token.
        before: Called before each completion with its body.
    """

    daemon_threads, request_queue_size = True, 256

    def __init__(self, vocabulary=range(20, 60)):
        super().__init__(("127.0.0.1", 0), Handler)
        self.vocabulary, self.version, self.requests, self.logprob = list(vocabulary), None, [], LOGPROB
        self.before = lambda body: None
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: FakeVLLM
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self._send({"data": []})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        what = self.path.split("?")[0]
        if what == "/v1/completions":
            self.server.requests.append(body)
            self.server.before(body)
            self._send({"choices": [self._completion(body, j) for j in range(body["n"])]})
        elif what == "/collective_rpc" and body["method"] == "load":
            self.server.version = body["kwargs"]["version"]
            found = total(checksum for _, checksum in body["kwargs"]["files"])
            self._send({"results": [{"version": self.server.version, "checksum": found}]})
        elif what == "/collective_rpc":
            self._send({"results": [{"version": self.server.version, "checksum": None}]})
        else:
            self._send({"success": True})

    def _completion(self, body: dict, j: int) -> dict:
        seed = body.get("seed")
        drawn = random.Random(f"{body['prompt']} {seed} {j}" if seed is not None else len(self.server.requests))
        ids, finish = [], "length"
        for _ in range(body["max_tokens"]):
            ends = body.get("stop_token_ids") and drawn.random() < 0.1
            ids.append(body["stop_token_ids"][0] if ends else drawn.choice(self.server.vocabulary))
            if ends:
                finish = "stop"
                break
        return {
            "token_ids": ids,
            "logprobs": {"token_logprobs": [self.server.logprob] * len(ids)},
            "finish_reason": finish,
        }

    def _send(self, content: dict) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

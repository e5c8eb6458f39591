"""How fast episodes are played: python -m benchmarks.episodes

Plays 128 episodes of up to 5 turns on vLLM with the embedded model. Prints JSON: the seconds of each repetition; the
share of the prompt tokens of later turns that vLLM found in its prefix cache; and, with environments of which 2 % of
the steps take 0.5 s, the seconds of r1lab's loop, and of one in which each turn waits for those of all other episodes.
"""

import argparse
import json
import random
import statistics
import time
from collections import Counter
from pathlib import Path

from r1lab.environments.base import Reply, Turn

MODEL = "embedded:tiny-qwen2"


class Talk:
    """Answers each turn, and sleeps in some of its steps.

    Args:
        slow: The share of the steps that sleep.
        seconds: For how long.
    """

    def __init__(self, *, slow: float = 0.0, seconds: float = 0.5):
        self.slow, self.seconds = slow, seconds

    def reset(self, *, seed: int, number: int):
        self.random = random.Random(seed * 1000 + number)

    def step(self, turn: Turn):
        if self.random.random() < self.slow:
            time.sleep(self.seconds)
        return Reply("and then?", role="user")


class Barrier:
    """A stream and a host that hand on no turn before all are finished, and no reply before all are there."""

    waits = True

    def __init__(self, stream, host):
        self.stream, self.host, self.pending = stream, host, 0
        self.add, self.end = stream.add, self._counted(host.end)
        self.reset, self.step_of = self._counted(host.reset), self._counted(host.step)

    def _counted(self, request):
        def ask(*given):
            self.pending += 1
            request(*given)

        return ask

    @property
    def running(self):
        return self.stream.running

    def step(self, *given):
        """The stream's without arguments, the host's with them."""
        if given:
            return self.step_of(*given)
        found = []
        while self.stream.running:
            found += self.stream.step()
        return found

    def events(self, *, wait: bool):
        found = []
        while self.pending:
            some = self.host.events(wait=True)
            self.pending -= len(some)
            found += some
        return found

    def close(self):
        self.stream.close()


class Cached:
    """Counts the prompt tokens of the later turns, and those of them that were found in the cache."""

    def __init__(self, engine):
        self.engine, self.step, self.tokens, self.found = engine, engine.step, 0, 0
        engine.step = self._step

    def _step(self):
        outputs = self.step()
        for output in outputs:
            if getattr(output, "finished", False) and len(output.prompt_token_ids) > FIRST:
                self.tokens += len(output.prompt_token_ids)
                self.found += output.num_cached_tokens or 0
        return outputs


FIRST = 70  # tokens: no prompt of a first turn is longer
QUESTION = "User: who of them is a knight, and who is a knave, if Luke says that Zoey is a knave? Assistant:"


def main() -> None:
    """Prints the figures."""
    # Imported here, because the workers of the environments import this file.
    from r1lab.engines import Sampling
    from r1lab.engines.vllm import VLLMEngine, start
    from r1lab.environments.host import LocalHost
    from r1lab.environments.processes import ProcessHost
    from r1lab.environments.toolset import Session
    from r1lab.episodes.play import Job, Limits, Player
    from r1lab.episodes.template import TurnTemplate
    from r1lab.models import loading

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--episodes", type=int, default=128)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=16, help="of a turn, at most")
    parser.add_argument("--slow", type=float, default=0.02, help="share of the steps that sleep")
    parser.add_argument("--workers", type=int, default=8, help="processes of the environments that sleep")
    parser.add_argument("--block-size", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()

    path = loading.resolve(given.model)
    tokenizer = loading.load_tokenizer(path)
    options = {"enforce_eager": True, "block_size": given.block_size}
    llm = start(path, dtype="float32", max_model_length=256, options=options)
    template = TurnTemplate(tokenizer, template="r1-zero")
    prompt = tokenizer(QUESTION)["input_ids"][: FIRST - 6]
    limits = Limits(given.turns, given.tokens, given.turns * given.tokens, 256, reply_tokens=32)
    jobs = [Job({"number": n}, seed=0, sampling_seed=n) for n in range(given.episodes)]

    def played(host, *, barrier: bool = False) -> tuple[float, list]:
        stream = VLLMEngine(llm).open(Sampling(logprobs=True), stop=[template.end])
        if barrier:
            stream = host = Barrier(stream, host)
        player = Player(
            stream, host, limits, template, lambda row, said: prompt + tokenizer(f" {row['number']}")["input_ids"]
        )
        began = time.perf_counter()
        episodes = player.play(jobs)
        seconds = time.perf_counter() - began
        assert all(episode.cut for episode in episodes), Counter(episode.end for episode in episodes)
        return seconds, episodes

    local = LocalHost(lambda: Session(Talk()))
    played(local)  # warm
    cached = Cached(llm.llm_engine)
    runs = [played(local) for _ in range(given.repeat)]
    episodes = runs[-1][1]
    found = {
        "model": given.model,
        "episodes": len(episodes),
        "turns": round(statistics.fmean(len(e.turns) for e in episodes), 2),
        "own_tokens": round(statistics.fmean(e.own_tokens for e in episodes), 1),
        "seconds": [round(seconds, 2) for seconds, _ in runs],
        "block_size": given.block_size,
        "cached_share_of_later_prompts": round(cached.found / max(1, cached.tokens), 3),
    }
    spec = {
        "environment": {"name": f"{Path(__file__).resolve()}:Talk", "slow": given.slow, "seconds": 0.5},
        "tools": [],
    }
    host = ProcessHost("r1lab.environments.make:make", spec, workers=given.workers)
    try:
        played(host)  # the workers start
        pairs = [(played(host)[0], played(host, barrier=True)[0]) for _ in range(given.repeat)]
    finally:
        host.close()
    found["slow_steps"] = given.slow
    found["continuous"], found["barrier"] = ([round(seconds, 2) for seconds in times] for times in zip(*pairs))
    found["times_as_fast"] = round(statistics.median(b / a for a, b in pairs), 2)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()

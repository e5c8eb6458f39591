"""Prints as JSON how long it takes to send the weights of a model to a vLLM server on this machine, by phase.

python benchmarks/sync.py [--model embedded:tiny-qwen2] [--servers 1] [--repeats 10]
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from r1lab.engines import processes
from r1lab.engines.sync import WeightSync
from r1lab.models import loading


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:tiny-qwen2")
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    path = loading.resolve(args.model)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        options = {"enforce_eager": True}
        running = processes.start(path, Path(folder), args.servers, dtype="float32", options=options)
        try:
            model = loading.load_model(args.model, dtype="float32")
            processes.wait(running)
            start = time.perf_counter() - began
            sender = WeightSync([server.url for server in running])
            rows = []
            for version in range(args.repeats + 1):
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter.mul_(1.001)
                began = time.perf_counter()
                done = sender.send(version, model.named_parameters())
                assert not done.failed, done.failed
                rows.append(done.seconds | {"total": time.perf_counter() - began})
            sender.close()
        finally:
            processes.stop(running)
    rows = rows[1:]  # the first one opens the connections
    print(
        json.dumps(
            {
                "model": args.model,
                "megabytes": round(sum(p.nbytes for p in model.parameters()) / 1e6, 1),
                "servers": args.servers,
                "start_seconds": round(start, 1),
                "median_seconds": {name: round(statistics.median(row[name] for row in rows), 4) for name in rows[0]},
                "fastest_seconds": {name: round(min(row[name] for row in rows), 4) for name in rows[0]},
            }
        )
    )


if __name__ == "__main__":
    main()

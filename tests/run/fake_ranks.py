"""A rank without a model: `python fake_ranks.py STAGE_DIR` in the environment of a rank.

It trains `max_steps` steps, at the end of which it waits for the other ranks, as r1lab's training stages do. `faults`
in its `train` section says what happens to a rank in its first step: see `fail`.
"""

import faulthandler
import os
import signal
import sys
import time
from pathlib import Path

from r1lab import ranks
from r1lab.rundir import storage


def main(path):
    if ranks.world_size() > 1:
        stack = (ranks.folder(path) / f"{ranks.rank()}.stack").open("w")
        faulthandler.register(signal.SIGUSR1, all_threads=True, file=stack)
    train = storage.read_yaml(path / "config.yaml")["train"]
    variables = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    variables += ("OMP_NUM_THREADS", "ACCELERATE_USE_CPU", "CUDA_VISIBLE_DEVICES")
    print("a rank starts")
    storage.write_json_atomic(path / f"rank{ranks.rank()}.json", {name: os.environ.get(name) for name in variables})
    (path / f"{attempt()}.{os.getpid()}.pid").touch()
    stop = []
    signal.signal(signal.SIGINT, lambda *_: stop.append(1))
    checkpoint = path / "checkpoints" / "checkpoint-1" / f"step{ranks.rank()}"
    first = int(checkpoint.read_text()) + 1 if checkpoint.is_file() else 1
    fault = "" if first > 1 else train.get("faults", {}).get(str(ranks.rank()), "")
    for step in range(first, train["max_steps"] + 1):
        ranks.beat(path)
        time.sleep(train.get("seconds", 0.0))
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        if step == 1 and fault and fault != "restart":
            time.sleep(0.5)  # the others wait
            fail(path, fault)
        stops = all_reduce(path, step, bool(stop))
        checkpoint.write_text(str(step))
        if ranks.is_main():
            storage.append_jsonl(path / "metrics.jsonl", {"phase": "train", "step": step, "time": time.time()})
        if fault == "restart":
            return ranks.RESTART
        if stops:
            return 130
    if ranks.is_main():
        result = {"stage": "sft", "seconds": 1.5, "steps": train["max_steps"], "first": first, "model": "model"}
        storage.write_json_atomic(path / "result.json", result)
    return 0


def attempt():
    """What the ranks that started together have in common."""
    return os.environ.get("MASTER_PORT", "0")


def fail(path, fault):
    if fault == "refuse":
        (path / "ranks" / f"{ranks.rank()}.error").write_text("data: row 3 has no answer\n")
        os._exit(2)
    if fault == "refuse all":
        name = "error.txt" if ranks.is_main() else f"ranks/{ranks.rank()}.error"
        (path / name).write_text("data: row 3 has no answer\n")
        os._exit(2)
    if fault == "crash":
        raise ValueError("the loss is nan")
    if fault == "hang":
        time.sleep(1000)
    os.kill(os.getpid(), getattr(signal, fault))


def all_reduce(path, step, flag):
    """Waits until all ranks are at this step; like Gloo, it raises if one of them ends before."""
    if ranks.world_size() == 1:
        return flag
    folder = ranks.folder(path)
    storage.write_text_atomic(folder / f"{ranks.rank()}.{step}.{attempt()}", str(int(flag)))
    files = [folder / f"{rank}.{step}.{attempt()}" for rank in range(ranks.world_size())]
    pids = [int(file.stem.split(".")[1]) for file in path.glob(f"{attempt()}.*.pid")]
    while True:
        ended = any(state(pid) == "Z" for pid in pids)
        if all(file.is_file() for file in files):
            return any(int(file.read_text()) for file in files)
        if ended:
            raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:3")
        time.sleep(0.02)


def state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


# Stacks show it as a collective of torch.
all_reduce.__code__ = all_reduce.__code__.replace(co_filename="/x/torch/distributed/distributed_c10d.py")

if __name__ == "__main__":
    status = main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(status)

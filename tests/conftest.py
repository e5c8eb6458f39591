"""Fixtures shared by the tests: a random tiny model with a tokenizer of its own, made here in a second."""

import os

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


_PROCESS_GROUP = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_GIVEN = {name: os.environ.get(name) for name in _PROCESS_GROUP}


def _as_given() -> None:
    for name, value in _GIVEN.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(autouse=True)
def own_process_group():
    """TRL and accelerate describe a process group in the environment, which what a test starts must not inherit.

    A trainer of a whole module does so too, before its first test: hence the first line.
    """
    _as_given()
    yield
    _as_given()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """The folder of a random Qwen2-architecture model of the embedded base's size, with its tokenizer."""
    from r1lab.data import knights_knaves
    from r1lab.models import prompts, saving, scratch

    rows = knights_knaves(people=[2, 3], size=400, copies=5, solution="evaluation")
    texts = [f"{prompts.R1_ZERO}{row['prompt']} {row['completion']}" for row in rows]
    model, tokenizer = scratch.scratch("tiny-qwen2", texts)
    folder = tmp_path_factory.mktemp("tiny-qwen2")
    saving.save(model, tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def random_model(tmp_path_factory):
    """The folder of a random model of 40,000 parameters whose completions differ, with the embedded tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from r1lab.models import loading

    tokenizer = loading.load_tokenizer("embedded:tiny-qwen2")
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen2", vocab_size=len(tokenizer), initializer_range=0.2, hidden_size=32, intermediate_size=48,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("random-model")
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def pytest_collection_modifyitems(config, items):
    """Skip what needs a GPU where there is none; run the slow files first where several processes share the files."""
    import torch

    if hasattr(config, "workerinput"):  # pytest-xdist; otherwise one process would be left with a slow file at the end
        slow = {item.path for item in items if "slow" in item.keywords}
        items.sort(key=lambda item: item.path not in slow)
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(scope="module")  # servers that wait use some of the CPU
def served(tmp_path_factory):
    """Two servers of the embedded base that take new weights."""
    pytest.importorskip("vllm")
    from r1lab.engines import processes
    from r1lab.models import loading

    folder = tmp_path_factory.mktemp("served")
    options = {"enforce_eager": True, "max_num_seqs": 8}
    path = loading.resolve("embedded:tiny-qwen2")
    running = processes.start(path, folder, 2, dtype="float32", max_model_length=512, options=options)
    processes.wait(running)
    yield running
    processes.stop(running)

"""Fixtures shared by the tests: a random tiny model with a tokenizer of its own, made here in a second."""

import os

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """The folder of a random Qwen2-architecture model of the embedded base's size, with its tokenizer."""
    from r1lab import models, prompts, saving
    from r1lab.data import knights_knaves

    rows = knights_knaves(people=[2, 3], size=400, copies=5, solution="evaluation")
    texts = [f"{prompts.R1_ZERO}{row['prompt']} {row['completion']}" for row in rows]
    model, tokenizer = models.scratch("tiny-qwen2", texts)
    folder = tmp_path_factory.mktemp("tiny-qwen2")
    saving.save(model, tokenizer, folder)
    return folder


def pytest_collection_modifyitems(items):
    """Skip what needs a GPU where there is none."""
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))

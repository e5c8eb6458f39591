"""What SFT learns, and in which order."""

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from r1lab.errors import UserError
from r1lab.stages.sft import by_length


@given(st.lists(st.integers(1, 60), max_size=300), st.integers(1, 16), st.integers(0, 3))
def test_by_length_loses_nothing_and_is_seeded(lengths, batch_size, seed):
    ordered = by_length(lengths, batch_size, seed=seed)
    assert sorted(ordered) == list(range(len(lengths)))
    assert ordered == by_length(lengths, batch_size, seed=seed)


def test_by_length_pads_little_and_does_not_sort_the_steps():
    lengths = [10] * 600 + [100] * 424  # two kinds, as lazy and careful attempts are
    ordered = [lengths[place] for place in by_length(lengths, 16, seed=0)]
    batches = [ordered[i : i + 16] for i in range(0, len(ordered), 16)]
    padded = sum(len(b) * max(b) for b in batches)
    assert padded < 1.15 * sum(lengths)
    long = [max(b) > 50 for b in batches]
    assert max(len(run) for run in "".join("x" if x else " " for x in long).split()) < 12


def sft(tmp_path, tiny_model, rows, **train):
    """The trainer's examples for rows, and what was told."""
    from r1lab.models import loading
    from r1lab.recipe import loading as recipe
    from r1lab.stages.sft import tokenized

    words = [f"train.{key}={value}" for key, value in train.items()]
    path = tmp_path / "r.yaml"
    path.write_text(
        f"stage: sft\nmodel: {{path: {tiny_model}}}\ndata: {{path: ./x.jsonl}}\nprompt: {{template: r1-zero}}\n"
    )
    loaded = recipe.load([str(path), *words])
    tokenizer = loading.load_tokenizer(str(tiny_model))
    examples = Dataset.from_file(tokenized(loaded, rows, tokenizer, tmp_path)).remove_columns("length")
    return examples.to_list(), tokenizer


ROWS = [{"prompt": "Who?", "completion": "<think> Hm. </think>\n<answer> Ada </answer>"},
        {"prompt": "Who?", "completion": "<think> " + "Hm. " * 50 + "</think>\n<answer> Ada </answer>"}]  # fmt: skip


def test_the_completion_is_learned_to_its_end_and_nothing_of_the_prompt(tmp_path, tiny_model):
    examples, tokenizer = sft(tmp_path, tiny_model, ROWS)
    for row, example in zip(ROWS, examples):
        learned = [label for label in example["labels"] if label != -100]
        assert tokenizer.decode(learned) == " " + row["completion"] + tokenizer.eos_token
        assert example["labels"][-1] == tokenizer.eos_token_id and example["labels"][0] == -100


def test_the_prompt_is_learned_where_that_is_asked(tmp_path, tiny_model):
    examples, _ = sft(tmp_path, tiny_model, ROWS, completion_only_loss="false")
    assert all(example["labels"] == example["input_ids"] for example in examples)


def test_a_row_that_is_too_long_is_left_out_and_counted(tmp_path, tiny_model):
    whole, _ = sft(tmp_path, tiny_model, ROWS)
    limit = len(whole[0]["input_ids"])
    examples, _ = sft(tmp_path, tiny_model, ROWS, max_length=limit)
    assert examples == whole[:1]
    told = (tmp_path / "metrics.jsonl").read_text()
    assert f"1 of 2 rows are longer than train.max_length {limit} and were left out" in told
    cut, _ = sft(tmp_path, tiny_model, ROWS, max_length=limit, truncation_mode="keep_start")
    assert cut[1]["input_ids"] == whole[1]["input_ids"][:limit]
    assert "1 of 2 rows are longer than train.max_length" in (tmp_path / "metrics.jsonl").read_text()


def test_no_row_left_is_an_error(tmp_path, tiny_model):
    with pytest.raises(UserError, match="train.max_length: 3: all 2 rows are longer"):
        sft(tmp_path, tiny_model, ROWS, max_length=3)


def test_packed_rows_do_not_see_each_other(tiny_model):
    """Positions that begin anew keep rows apart, as TRL's packing relies on."""
    import torch

    from r1lab.models import loading

    model, tokenizer = loading.load_model(str(tiny_model)), loading.load_tokenizer(str(tiny_model))
    rows = [
        tokenizer(text, return_tensors="pt")["input_ids"] for text in ("Zoey is a knight.", "Who is a knave then?")
    ]
    packed = torch.cat(rows, dim=1)
    positions = torch.cat([torch.arange(row.shape[1])[None] for row in rows], dim=1)
    with torch.no_grad():
        together = model(input_ids=packed, position_ids=positions, use_cache=False).logits  # as TRL's trainer does
        alone = torch.cat([model(input_ids=row).logits for row in rows], dim=1)
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_tokens_lie_in_a_file_and_not_in_memory(tmp_path, tiny_model):
    from r1lab.models import loading
    from r1lab.recipe import loading as recipe
    from r1lab.stages.sft import TOKENS, tokenized

    path = tmp_path / "r.yaml"
    path.write_text(f"stage: sft\nmodel: {{path: {tiny_model}}}\ndata: {{path: ./x.jsonl}}\n")
    file = tokenized(recipe.load([str(path)]), ROWS, loading.load_tokenizer(str(tiny_model)), tmp_path)
    dataset = Dataset.from_file(file)
    (file,) = dataset.cache_files
    assert file["filename"] == str(tmp_path / TOKENS / "rows.arrow")
    assert dataset.features["input_ids"].feature.dtype == dataset.features["labels"].feature.dtype == "int32"
    assert list(dataset["length"]) == [len(ids) for ids in dataset["input_ids"]]


def test_a_token_beyond_the_embedding_names_the_row(tmp_path, tiny_model):
    from r1lab.models import loading
    from r1lab.recipe import loading as recipe
    from r1lab.stages.sft import tokenized

    path = tmp_path / "r.yaml"
    path.write_text(f"stage: sft\nmodel: {{path: {tiny_model}}}\ndata: {{path: ./x.jsonl}}\n")
    tokenizer, model = loading.load_tokenizer(str(tiny_model)), loading.load_model(str(tiny_model))
    size = model.config.vocab_size
    assert size == len(tokenizer)
    tokenizer.add_tokens(["<tool>"])
    rows = [*ROWS, {"prompt": "Who?", "completion": "<tool>"}]
    with pytest.raises(UserError, match=f"data: row 3 has '<tool>', whose id {size} is beyond"):
        tokenized(recipe.load([str(path)]), rows, tokenizer, tmp_path, model=model)


def episode(tokenizer) -> dict:
    """A row of a sample stage that played an episode of two turns."""
    texts = [(True, "Who is it?"), (False, "It is Ada."), (True, "Ada.<|im_end|>"), (False, "right")]
    turns = [{"own": own, "ids": tokenizer(text)["input_ids"]} for own, text in texts]
    turns = [turn | {"text": tokenizer.decode(turn["ids"], skip_special_tokens=True)} for turn in turns]
    return {"prompt": "Who?", "completion": "", "prompt_ids": tokenizer("Who?")["input_ids"], "turns": turns}


def test_of_an_episode_the_own_tokens_are_learned_in_the_context_of_the_replies(tmp_path, tiny_model):
    from r1lab.models import loading

    row = episode(loading.load_tokenizer(str(tiny_model)))
    first, reply, second, _ = (turn["ids"] for turn in row["turns"])
    (plain, example), _ = sft(tmp_path, tiny_model, [ROWS[0], row])
    assert plain["labels"][-1] != -100
    assert example["input_ids"] == row["prompt_ids"] + first + reply + second
    assert example["labels"] == [-100] * len(row["prompt_ids"]) + first + [-100] * len(reply) + second
    (whole,), _ = sft(tmp_path, tiny_model, [row], completion_only_loss="false")
    assert whole["labels"] == whole["input_ids"] == example["input_ids"]


def test_an_episode_of_another_tokenizer_is_an_error(tmp_path, tiny_model):
    from r1lab.models import loading

    row = episode(loading.load_tokenizer(str(tiny_model)))
    row["turns"][2]["ids"][0] += 1
    with pytest.raises(UserError, match="data: row 2: its episode has the tokens of another tokenizer: train the"):
        sft(tmp_path, tiny_model, [ROWS[0], row])


@pytest.mark.slow
def test_packed_episodes_have_the_same_loss(tmp_path, tiny_model):
    from r1lab.models import loading
    from r1lab.recipe import loading as recipe
    from r1lab.rundir import storage
    from r1lab.stages.sft import run

    row = episode(loading.load_tokenizer(str(tiny_model)))
    storage.write_jsonl(tmp_path / "rows.jsonl", [ROWS[0], row, row, ROWS[0]])
    (tmp_path / "r.yaml").write_text(
        f"stage: sft\nmodel: {{path: {tiny_model}}}\ndata: {{path: {tmp_path}/rows.jsonl}}\n"
        "prompt: {template: r1-zero}\n"
        "train: {max_steps: 1, per_device_train_batch_size: 4, max_length: 512}\n"
    )
    losses = []
    for packing in ("false", "true"):
        folder = tmp_path / packing
        folder.mkdir()
        assert run(recipe.load([str(tmp_path / "r.yaml"), f"train.packing={packing}"]), folder) == 0
        told = storage.read_jsonl(folder / "metrics.jsonl")
        losses += [line["loss"] for line in told if "loss" in line]
    learned = [line["message"] for line in told if "trains on" in line.get("message", "")]
    examples, _ = sft(tmp_path, tiny_model, [ROWS[0], row])
    own = 2 * sum(label != -100 for example in examples for label in example["labels"])
    assert len(learned) == 1 and learned[0].startswith(f"trains on {own} of ")
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("packing", [False, True])
def test_an_end_token_of_the_recipe_is_trained_on_and_saved(tmp_path, packing):
    """As open-r1's recipes ask: a base whose text ends otherwise than its chat template's turns."""
    import json
    import shutil

    from transformers import AutoTokenizer, GenerationConfig

    from r1lab.models import loading
    from r1lab.recipe import loading as recipe
    from r1lab.rundir import storage
    from r1lab.stages.sft import TOKENS, run

    base = tmp_path / "base"
    shutil.copytree(loading.EMBEDDED / "tiny-qwen2", base)
    for name, change in (
        ("tokenizer_config.json", {"eos_token": "<|endoftext|>"}),
        ("generation_config.json", {"eos_token_id": 0}),
        ("config.json", {"eos_token_id": 0}),
    ):
        settings = json.loads((base / name).read_text(encoding="utf-8")) | change
        (base / name).write_text(json.dumps(settings), encoding="utf-8")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS * 4), encoding="utf-8")
    path = tmp_path / "r.yaml"
    train = {"max_steps": 1, "learning_rate": 1e-4, "eos_token": "<|im_end|>", "packing": packing}
    path.write_text(
        json.dumps(
            {
                "stage": "sft",
                "model": {"path": str(base)},
                "data": {"path": str(rows)},
                "prompt": {"template": "chat"},
                "train": train,
            }
        )
    )
    folder = tmp_path / "run"
    folder.mkdir()
    assert run(recipe.load([str(path)]), folder) == 0
    assert AutoTokenizer.from_pretrained(folder / "model").eos_token == "<|im_end|>"
    assert GenerationConfig.from_pretrained(folder / "model").eos_token_id[0] == 2
    told = " ".join(row.get("message", "") for row in storage.read_jsonl(folder / "metrics.jsonl"))
    assert "</answer><|im_end|>" in told.replace(" ", "") and "never stop" not in told
    assert not (folder / TOKENS).exists()


def test_the_end_of_a_truncated_sample_is_not_learned(tmp_path, tiny_model):
    examples, tokenizer = sft(tmp_path, tiny_model, [row | {"truncated": True} for row in ROWS])
    for row, example in zip(ROWS, examples):
        learned = [label for label in example["labels"] if label != -100]
        assert tokenizer.decode(learned) == " " + row["completion"]

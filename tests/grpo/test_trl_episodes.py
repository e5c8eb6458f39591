"""TRL's own `tools`, `environment_factory` and `rollout_func` in r1lab's trainer, which packs their episodes.

The class of an environment that was written for TRL also works in a recipe, without a change.
"""

import importlib.util

import pytest
import torch
import trl
from datasets import Dataset
from trl import GRPOConfig, chat_template_utils

import r1lab
from r1lab.environments import make
from r1lab.environments.base import Call, Turn
from r1lab.environments.host import LocalHost
from r1lab.episodes.play import Job, Limits, Player
from r1lab.episodes.template import TurnTemplate
from r1lab.models import loading
from tests.episodes.test_play import Scripted

ENVIRONMENTS = '''
class Echo:
    def reset(self, **kwargs) -> str | None:
        return None

    def echo(self, text: str) -> str:
        """Repeats a text.

        Args:
            text: What is repeated.
        """
        return text


class Wordle:
    """Says which letters of a guess are right: g at its place, y elsewhere, - nowhere."""

    def reset(self, word: str = "luke", **kwargs) -> str | None:
        self.word, self.reward, self.over = word, 0.0, False
        return "Guess a word of four letters."

    def guess(self, word: str) -> str:
        """
        Guesses the word.

        Args:
            word: Four letters.

        Returns:
            A mark for each letter.
        """
        if self.over:
            raise ValueError("Game over.")
        self.over = word == self.word
        hits = [a == b for a, b in zip(word, self.word)]
        self.reward = sum(hits) / 4
        return "".join("g" if hit else "y" if a in self.word else "-" for a, hit in zip(word, hits))

    def get_reward(self) -> float:
        return self.reward
'''
ROWS = [{"prompt": [{"role": "user", "content": f"Luke said {n} to Zoey"}]} for n in range(4)]
GUESSES = ["luke", "lake", "zoey", "kule"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A file with the environments, and its module."""
    file = tmp_path_factory.mktemp("env") / "env.py"
    file.write_text(ENVIRONMENTS)
    spec = importlib.util.spec_from_file_location("env", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return file, module


def tokenizer_of():
    tokenizer = loading.load_tokenizer("embedded:tiny-qwen2")
    tokenizer.chat_template = chat_template_utils.qwen3_chat_template  # one that TRL knows how to parse
    return tokenizer


def trainer(base, folder, out, calls, **given):
    """A trainer after two steps, its rollouts, and by how much its weights have moved.

    Args:
        calls: What each episode's first turn is, by its number; the later turns are plain texts.
    """
    tokenizer = tokenizer_of()

    class Scripted(base):
        begun = 0

        @property
        def made_batches(self):
            return self.__dict__.setdefault("_batches", [])

        def _generate_single_turn(self, prompt_ids, *args, **kwargs):
            texts = []
            for ids in prompt_ids:
                if "<tool_response>" in tokenizer.decode(ids).rpartition("user")[2]:
                    texts.append("knight and knave " * (len(ids) % 3 + 1))
                else:
                    texts.append(calls[self.begun % len(calls)])
                    self.begun += 1
            return [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts], None

        def _generate_and_score_completions(self, inputs):
            self.made_batches.append(super()._generate_and_score_completions(inputs))
            return self.made_batches[-1]

    config = GRPOConfig(
        output_dir=str(out), per_device_train_batch_size=8, num_generations=4, max_completion_length=400, max_steps=2,
        optim="sgd", learning_rate=0.1, lr_scheduler_type="constant", logging_steps=1, bf16=False, seed=3,
        gradient_checkpointing=False, use_cpu=True, save_strategy="no", report_to="none", disable_tqdm=True,
        loss_type="dapo",
    )  # fmt: skip
    model = loading.load_model(folder, dtype="float32")
    model.config.max_position_embeddings = 2048  # TRL drops replies beyond it
    made = Scripted(
        model=model, args=config, processing_class=tokenizer, train_dataset=Dataset.from_list(ROWS), **given
    )
    before = torch.cat([p.detach().flatten().clone() for p in made.model.parameters()])
    made.train()
    return made, torch.cat([p.detach().flatten() for p in made.model.parameters()]) - before


def agree(folder, tmp_path, calls, **given):
    """Trains both trainers: same rewards, losses, gradients and weights."""
    (ours, moved), (theirs, expected) = (
        trainer(base, folder, tmp_path, calls, **given) for base in (r1lab.GRPOTrainer, trl.GRPOTrainer)
    )
    assert ours.packs
    assert expected.norm() > 0 and (moved - expected).norm() <= 1e-4 * expected.norm()
    for key in ("loss", "reward", "grad_norm", "completions/mean_length"):
        a, b = ([row[key] for row in made.state.log_history if key in row] for made in (ours, theirs))
        assert len(a) == 2 and a == pytest.approx(b, rel=1e-3, abs=1e-5), key
    for a, b in zip(ours.made_batches, theirs.made_batches, strict=True):
        own = a["tool_mask"] * a["completion_mask"]
        assert 0 < own.sum() < a["completion_mask"].sum()  # there are replies
        assert own.sum() == (b["tool_mask"] * b["completion_mask"]).sum()


def written_call(name, **arguments):
    given = ", ".join(f'"{key}": "{value}"' for key, value in arguments.items())
    return f'<tool_call>\n{{"name": "{name}", "arguments": {{{given}}}}}\n</tool_call>'


def lengths(completions, **_):
    return [len(str(turns[-1]["content"])) / 50 for turns in completions]


def test_a_class_for_environment_factory_in_both_trainers(random_model, tmp_path, written):
    calls = [written_call("guess", word=word) for word in GUESSES]
    agree(random_model, tmp_path, calls, environment_factory=written[1].Wordle)


def test_tools_in_both_trainers(random_model, tmp_path, written):
    calls = [written_call("echo", text="Luke " * n) for n in range(3)] + ["no call"]
    agree(random_model, tmp_path, calls, tools=[written[1].Echo().echo], reward_funcs=lengths)


def test_a_rollout_func_with_a_mask_in_both_trainers(random_model, tmp_path):
    tokenizer = tokenizer_of()

    def rollout(prompts, trainer):
        draw = torch.Generator().manual_seed(trainer.state.global_step)
        ids = [torch.randint(5, 300, (5 + i,), generator=draw).tolist() for i, _ in enumerate(prompts)]
        masks = [[int(j % 3 != 1) for j in range(len(some))] for some in ids]
        rendered = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, return_dict=True)["input_ids"]
        return {"prompt_ids": rendered, "completion_ids": ids, "logprobs": None, "env_mask": masks}

    agree(random_model, tmp_path, [""], rollout_func=rollout, reward_funcs=lengths)


@pytest.mark.parametrize("name", ["Echo", "Wordle"])
def test_the_same_class_in_a_recipe(written, name):
    file, _ = written
    session = make.make({"environment": {"name": f"{file}:{name}"}, "tools": []})
    said = session.reset({"prompt": "?", "word": "lake", "task": None}, seed=1)
    if name == "Echo":
        assert said is None
        assert [r.content for r in session.step(Turn("", [Call("echo", {"text": "hi"})], 1))] == ["hi"]
        return
    assert said == "Guess a word of four letters."
    assert [r.content for r in session.step(Turn("", [Call("guess", {"word": "kale"})], 1))] == ["ygyg"]
    tokenizer = loading.load_tokenizer("embedded:tiny-qwen2")
    texts = [
        written_call("guess", word="luke"),
        written_call("guess", word="lake"),
        written_call("guess", word="lake"),
    ]
    stream = Scripted(tokenizer, {0: [*texts, "found it"]})
    host = LocalHost(lambda: make.make({"environment": {"name": f"{file}:{name}"}, "tools": []}))
    begin = lambda row, said: tokenizer(f"{row['prompt']} {said}")["input_ids"]  # noqa: E731
    player = Player(stream, host, Limits(6, 100, 600, 2000), TurnTemplate(tokenizer, template="chat"), begin)
    (episode,) = player.play([Job({"prompt": "?", "word": "lake"}, 1)])
    assert [turn.text for turn in episode.segments if not turn.own][:2] == ["g-gg", "gggg"]
    assert "ValueError: Game over." in episode.segments[5].text  # what its author raises reaches the model
    assert (episode.end, episode.reward) == ("answered", 1.0)

"""An update that is computed during its rollout is the update that is computed after it."""

import threading

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from trl import GRPOConfig

from r1lab.data import knights_knaves
from r1lab.grading import grader
from r1lab.grpo import metrics, overlap
from r1lab.grpo.rewards import BatchRewards
from r1lab.grpo.trainer import GRPOTrainer
from r1lab.models import loading, prompts
from r1lab.recipe.training import GrpoTrain

pytest.importorskip("vllm")
pytestmark = pytest.mark.slow
LOSSES = ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"]
GROUPS, SIZE = 4, 4


def started(folder, **more):
    """The embedded model with vLLM, on puzzles of which it solves some.

    The policy is in float64: in float32, rounding alone moves the gradient of a few rows by more than 1e-6.
    """
    tokenizer = loading.load_tokenizer("embedded:tiny-qwen2")
    rows = knights_knaves(people=2, size=GROUPS, seed=1)
    texts = [prompts.render(row["prompt"], tokenizer, template="r1-zero")[0] for row in rows]
    built = grader.build([{"name": "knights_knaves"}, {"name": "repetition"}])
    rewards = BatchRewards(built, rows, folder, size=SIZE)
    args = GRPOConfig(
        output_dir=str(folder), use_vllm=True, vllm_mode="colocate", vllm_max_model_length=256,
        per_device_train_batch_size=SIZE, gradient_accumulation_steps=GROUPS, num_generations=SIZE,
        max_completion_length=96, beta=0.0, scale_rewards="none", gradient_checkpointing=False, bf16=False,
        vllm_importance_sampling_mode="token_truncate", report_to="none",
    )  # fmt: skip
    made = GRPOTrainer(
        model=loading.load_model("embedded:tiny-qwen2", dtype="float64"), args=args, processing_class=tokenizer,
        reward_funcs=rewards.functions, rewards=rewards, rendered=True, own=GrpoTrain(overlap=True),
        dtype=torch.float32, options={"enforce_eager": True},
        train_dataset=Dataset.from_dict({"prompt": texts, "row": list(range(GROUPS))}), **more,
    )  # fmt: skip
    made.current_gradient_accumulation_steps = GROUPS
    made.model.train()
    update(made, overlaps=False)  # later ones find the prompts in vLLM's cache
    return made


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    return started(tmp_path_factory.mktemp("out"))


def update(made, *, overlaps: bool) -> dict:
    """The gradient, loss and metrics of an update, its completions, and how many of them were trained on early."""
    inputs = [row for row in made.train_dataset for _ in range(SIZE)]
    made.overlaps, made._step, made._buffered_inputs = overlaps, 0, None
    made._metrics["train"].clear()
    made.model.zero_grad()
    found = {"early": 0}
    settle = overlap.Overlap.settle

    def noted(self, batch):
        rows = settle(self, batch)
        found["early"] = len(rows)
        return rows

    generate = made.vllm_generation.generate

    def kept(*args, **kwargs):
        out = generate(*args, **kwargs)
        found["ids"] = out[1]
        return out

    torch.manual_seed(5)
    made.vllm_generation.generate = kept
    overlap.Overlap.settle = noted
    try:
        found["loss"] = sum(made.training_step(made.model, inputs, None).item() for _ in range(GROUPS))
    finally:
        made.vllm_generation.generate, overlap.Overlap.settle = generate, settle
    metrics.merge(made)
    found["metrics"] = {k: v for k, v in made._metrics["train"].items() if k not in ("step_time", "num_tokens")}
    found["gradient"] = torch.cat([p.grad.flatten() for p in made.model.parameters() if p.grad is not None])
    return found


@pytest.fixture
def waiting(monkeypatch):
    """vLLM waits until the thread has trained on a finished group, so that a busy machine overlaps too."""
    finished, train_on = overlap.Overlap.finished, overlap.Overlap._train_on
    done = threading.Semaphore(0)

    def wait(self, i, token_ids, output):
        before = len(self.rewards._early)
        finished(self, i, token_ids, output)
        if len(self.rewards._early) > before:
            assert done.acquire(timeout=300)

    def noted(self, groups):
        try:
            train_on(self, groups)
        finally:
            done.release(len(groups))

    monkeypatch.setattr(overlap.Overlap, "finished", wait)
    monkeypatch.setattr(overlap.Overlap, "_train_on", noted)


def agree(ours: dict, theirs: dict, bound: float = 1e-6, rounding: float = 1e-6) -> None:
    """`rounding` is of metrics that are differences of log-probabilities, so that their own size is no scale of it."""
    assert ours["ids"] == theirs["ids"]
    assert theirs["gradient"].norm() > 0
    gap = (ours["gradient"] - theirs["gradient"]).norm() / theirs["gradient"].norm()
    print("relative difference of the gradients:", gap.item())
    assert gap <= bound
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5, abs=1e-7)
    assert ours["metrics"].keys() == theirs["metrics"].keys()
    for name, values in theirs["metrics"].items():
        assert ours["metrics"][name] == pytest.approx(values, rel=1e-4, abs=rounding), name


@pytest.mark.parametrize("loss_type", LOSSES)
def test_the_gradient_and_the_metrics_are_those_without_overlap(trainer, waiting, monkeypatch, loss_type):
    monkeypatch.setattr(trainer, "loss_type", loss_type)
    if loss_type == "luspo":
        monkeypatch.setattr(trainer, "importance_sampling_level", "sequence")
    ours, theirs = update(trainer, overlaps=True), update(trainer, overlaps=False)
    agree(ours, theirs)
    assert ours["early"] > 0 and theirs["early"] == 0


@pytest.mark.parametrize("changed", [{"scale_rewards": "group"}, {"mask_truncated_completions": True}], ids=str)
def test_advantages_and_masks_are_those_without_overlap(trainer, waiting, monkeypatch, changed):
    monkeypatch.setattr(trainer, "skips_no_signal", False)
    for name, value in changed.items():
        monkeypatch.setattr(trainer, name, value)
    agree(update(trainer, overlaps=True), update(trainer, overlaps=False))


def test_in_float32_the_gradients_differ_by_rounding(trainer, waiting):
    trainer.model.float()
    try:
        agree(update(trainer, overlaps=True), update(trainer, overlaps=False), bound=1e-4, rounding=1e-5)
    finally:
        trainer.model.double()


def test_an_adapter_gets_the_gradient_that_it_has_without_overlap(waiting, tmp_path):
    made = started(tmp_path, peft_config=LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    ours, theirs = update(made, overlaps=True), update(made, overlaps=False)
    agree(ours, theirs)
    assert ours["early"] > 0 and len(theirs["gradient"]) < made.model.num_parameters() / 2


def test_another_advantage_in_the_end_drops_what_was_computed(trainer, waiting, monkeypatch):
    theirs = update(trainer, overlaps=False)
    wrong = overlap._advantages
    monkeypatch.setattr(overlap, "_advantages", lambda *args: 2 * wrong(*args) + 1)
    ours = update(trainer, overlaps=True)
    agree(ours, theirs)
    assert ours["early"] == 0


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["thread", "engine"])
def test_an_error_ends_the_thread_and_the_rollout(trainer, monkeypatch, error, where):
    began, finished, threads = threading.Event(), overlap.Overlap.finished, torch.get_num_threads()

    def trains(self, groups):
        began.set()
        if where == "thread":
            raise error("stopped here")

    def wait(self, i, token_ids, output):
        finished(self, i, token_ids, output)
        if self.rewards._early:
            assert began.wait(timeout=300)
            if where == "engine":
                raise error("stopped here")

    monkeypatch.setattr(overlap.Overlap, "_train_on", trains)
    monkeypatch.setattr(overlap.Overlap, "finished", wait)
    with pytest.raises(error, match="stopped here"):
        update(trainer, overlaps=True)
    assert torch.get_num_threads() == threads
    assert not any(thread.name.startswith("overlap") for thread in threading.enumerate())
    engine = trainer.vllm_generation.llm.llm_engine
    engine.abort_request(list(engine.output_processor.request_states), internal=True)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("by_rows", False, "not a sum over rows"),
        ("beta", 0.1, "not a sum over rows"),
        ("scale_rewards", "batch", "whole batch"),
        ("multi_objective_aggregation", "normalize_then_sum", "whole batch"),
        ("on_policy", False, "not one update"),
        ("use_vllm", False, "one by one"),
        ("chooser", object(), "not what vLLM generates"),
        ("own", GrpoTrain(advantage="reinforce_pp_baseline"), "whole batch"),
        ("own", GrpoTrain(advantage="./mine.py:best"), "whole batch"),
        ("own", GrpoTrain(grade_early=False), "graded together"),
        ("rewards", None, "graded together"),
    ],
)
def test_what_does_not_fit_takes_the_usual_way(trainer, monkeypatch, capsys, name, value, why):
    assert overlap.obstacle(trainer) is None and overlap.fits(trainer)
    monkeypatch.setattr(trainer, name, value)
    assert not overlap.fits(trainer)
    assert why in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [("gradient_checkpointing", True, "random"), ("vllm_enable_sleep_mode", True, "awake")],
)
def test_settings_that_do_not_fit(trainer, monkeypatch, name, value, why):
    monkeypatch.setattr(trainer.args, name, value)
    assert why in (overlap.obstacle(trainer) or "")


def test_dropout_would_draw_from_the_engines_generator(trainer, monkeypatch):
    monkeypatch.setattr(trainer.model.config, "attention_dropout", 0.1)
    assert "random" in (overlap.obstacle(trainer) or "")

"""`r1lab export verifiers`: the package is installed, and verifiers evaluates it with a server on this machine."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from r1lab import cli
from r1lab.environments import Call, make, players
from r1lab.episodes.engine import task_seed
from r1lab.errors import UserError
from r1lab.export import package
from r1lab.grading import grader
from r1lab.recipe import loading
from r1lab.stages import rows as stage_rows

GRPO = """\
stage: grpo
name: small
model: {path: "embedded:tiny-qwen2"}
data: {builder: knights_knaves, people: 2, size: 6}
prompt: {template: chat, system: Think first.}
rewards: [{name: knights_knaves}, {name: format, weight: 0.5}, {name: "./own.py:brief", weight: 0.25}]
train: {per_device_train_batch_size: 16}
"""

OWN = """
def brief(completions, **columns):
    return [float(len(text) < 160) for text in completions]
"""


class Answers(BaseHTTPRequestHandler):
    """An OpenAI-compatible server; `write(messages)` returns a text, or a list of calls."""

    write = staticmethod(lambda messages: "")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        said = type(self).write(body["messages"])
        message = {"role": "assistant", "content": said if isinstance(said, str) else ""}
        if not isinstance(said, str):
            message["tool_calls"] = [
                {"id": f"c{i}", "type": "function",
                 "function": {"name": call.name, "arguments": json.dumps(call.arguments)}}
                for i, call in enumerate(said)
            ]  # fmt: skip
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        found = json.dumps(answer | {"usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(found)))
        self.end_headers()
        self.wfile.write(found)

    def log_message(self, format, *args):
        pass


@pytest.fixture
def evaluated(tmp_path, monkeypatch):
    """A function that exports a recipe, installs the package, and has verifiers evaluate it."""
    vf = pytest.importorskip("verifiers", reason="pip install --no-deps -r requirements/verifiers.txt")
    monkeypatch.setenv("PRIME_API_KEY", "none")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def run(recipe, write, times=1):
        package.write(recipe, tmp_path / "made")
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
        subprocess.run([*command, "--target", tmp_path / "site", tmp_path / "made"], check=True)
        monkeypatch.syspath_prepend(tmp_path / "site")
        (module,) = (path.name for path in (tmp_path / "site").glob("r1lab_*") if path.suffix != ".dist-info")
        monkeypatch.delitem(sys.modules, module, raising=False)
        environment = vf.load_environment(module.replace("_", "-"))
        monkeypatch.setattr(Answers, "write", staticmethod(write))
        server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/v1"
        inputs = [row for row in environment.get_dataset().to_list() for _ in range(times)]
        client = vf.types.ClientConfig(api_base_url=address)
        try:
            found = environment.generate_sync(inputs, client=client, model="m", sampling_args={})
        finally:
            server.shutdown()
            server.server_close()
        return environment, sorted(found["outputs"], key=lambda one: one["example_id"])

    return run


def loaded(tmp_path, text, *settings):
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "small.yaml").write_text(text)
    return loading.load([str(tmp_path / "small.yaml"), *settings])


@pytest.mark.slow
def test_the_rewards_of_a_package_are_those_of_r1lab(tmp_path, evaluated):
    recipe = loaded(tmp_path, GRPO)
    rows = stage_rows.build_rows(recipe.data, seed=recipe.seed)
    gold = [f"<think> Suppose that each is a knight. </think> <answer> {row['answer']} </answer>" for row in rows]
    texts = [gold[0], gold[1] + " " * 160, "<answer> no </answer>", gold[3][8:], "I do not know.", gold[5]]
    by_prompt = {row["prompt"]: text for row, text in zip(rows, texts)}

    environment, outputs = evaluated(recipe, lambda messages: by_prompt[messages[-1]["content"]])
    assert [message["content"] for message in environment.get_dataset()[0]["prompt"]] == [
        "Think first.", rows[0]["prompt"],
    ]  # fmt: skip
    specs = [{**reward.model_dump(), "name": reward.name} for reward in recipe.rewards]
    graded = grader.build(specs).grade(texts, rows)
    assert [one["reward"] for one in outputs] == graded.totals and graded.totals[0] == 1.75
    for name, values in graded.values.items():
        assert [one["metrics"][name] for one in outputs] == values
    assert len(set(graded.totals)) > 2


@pytest.mark.slow
def test_the_members_of_a_group_are_compared(tmp_path, evaluated):
    rewards = "rewards=[{name: majority, same_as: exact_match}, {name: format, weight: 0.5}]"
    recipe = loaded(tmp_path, GRPO, rewards, "data.size=2")
    asked = {}

    def write(messages):
        """The same answer twice, and then another one."""
        prompt = messages[-1]["content"]
        asked[prompt] = asked.get(prompt, 0) + 1
        return f"<think> So it is. </think> <answer> {asked[prompt] // 3} </answer>"

    _, outputs = evaluated(recipe, write, times=3)
    assert sorted(one["reward"] for one in outputs) == [0.5, 0.5, 1.5, 1.5, 1.5, 1.5]


@pytest.mark.slow
def test_an_environment_is_played_as_in_r1lab(tmp_path, evaluated):
    text = GRPO.replace(
        "data: {builder: knights_knaves, people: 2, size: 6}", "data: {builder: number_guess, size: 5}"
    )
    rewards = "rewards=[{name: environment}]"
    recipe = loaded(tmp_path, text, rewards, "environment={name: number_guess, inside: 0.1, max_turns: 3}")
    rows = stage_rows.build_rows(recipe.data, seed=recipe.seed)

    def write(messages):
        """Halves what is left."""
        said = [message["content"] for message in messages if message["role"] == "user"]
        row = next(row for row in rows if said[0].startswith(row["prompt"]))
        player = players.gold(make_session(recipe).environment, row)
        turn = [player(one) for one in said][-1]
        assert isinstance(turn, str)
        return turn

    _, outputs = evaluated(recipe, write)
    games = []
    for number, row in enumerate(rows):
        session = make_session(recipe)
        player = players.gold(session.environment, row)
        games.append(players.played(session, row, task_seed(recipe.seed, number), player, turns=3))
    assert [one["reward"] for one in outputs] == pytest.approx([game.reward for game in games])
    assert [one["metrics"]["num_turns"] for one in outputs] == [len(game.turns) for game in games]
    assert {len(game.turns) for game in games} == {3} or len({game.reward for game in games}) > 1


@pytest.mark.slow
def test_tools_are_called_as_the_server_writes_them(tmp_path, evaluated):
    text = GRPO.replace("data: {builder: knights_knaves, people: 2, size: 6}", "data: {builder: desk, size: 3}")
    recipe = loaded(tmp_path, text, "rewards=[{name: environment}]", "environment={name: desk}", "tools=[calculator]")

    def write(messages):
        """Asks for the age of the person named last, and says what was replied."""
        if messages[-1]["role"] == "tool":
            return f"<think> so </think> <answer> {messages[-1]['content']} </answer>"
        return [Call("age", {"person": messages[-1]["content"].split("?")[0].split()[-1]})]

    environment, outputs = evaluated(recipe, write)
    assert [tool.name for tool in environment.tool_defs][-1] == "calculator"
    rows = stage_rows.build_rows(recipe.data, seed=recipe.seed)
    assert [one["reward"] for one in outputs] == [float(row["hops"] == 0) for row in rows]
    assert {row["hops"] for row in rows} == {0, 1}


def make_session(recipe):
    return make.make(make.spec_of(recipe))


def test_the_quickstart_is_exported(tmp_path, capsys):
    folder = tmp_path / "made"
    assert cli.main(["export", "verifiers", "quickstart", str(folder), "data.size=8", "eval.size=4"]) == 0
    assert "the package r1lab-quickstart, with 8 rows for training and 4 for evaluation" in capsys.readouterr().out
    lines = (folder / "r1lab_quickstart" / "train.jsonl").read_text().splitlines()
    (message,) = json.loads(lines[0])["prompt"]
    assert len(lines) == 8 and message["content"].endswith("Assistant:")
    assert "--chat-template r1lab_quickstart/plain.jinja" in (folder / "README.md").read_text()
    assert "rollouts_per_example = 8" in (folder / "prime-rl.toml").read_text()
    assert cli.main(["export", "verifiers", "quickstart", str(folder)]) == 2
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["stage=sft", "rewards=null", "prompt.system=null"], "has no grpo stage"),
        (["prompt.prefill=<think>"], "prompt.prefill"),
        (["tools=[{mcp: {command: [x]}}]"], "tools: of servers"),
    ],
)
def test_what_cannot_be_exported_is_one_line(tmp_path, settings, said):
    recipe = loaded(tmp_path, GRPO, *settings)
    with pytest.raises(UserError) as caught:
        package.write(recipe, tmp_path / "made")
    (line,) = caught.value.problems
    assert said in line

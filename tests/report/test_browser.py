"""The page in Chromium: filters, the browser of completions, and that no completion ever runs."""

import pytest

from r1lab import report

SHOWN = "Number(document.getElementById('status').textContent.replaceAll(',', '').split(' ')[0])"
TEXTS = "[...document.querySelectorAll('article pre.short')].map((pre) => pre.textContent)"


def choose(tab, id, value, shown):
    """Sets a field as a person would, and waits until so many completions are found."""
    set_it = f"(f => {{ f.value = {value!r}; f.dispatchEvent(new Event('input')); }})(document.getElementById('{id}'))"
    tab.js(set_it)
    tab.wait(f"{SHOWN} === {shown}")


@pytest.fixture(scope="module")
def opened(tab, run, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "report.html"
    report.write([run], out=file)
    tab.size(1280, 900)
    tab.open(file)
    return tab


def option(tab, id, text):
    return tab.js(f"[...document.getElementById('{id}').options].find((o) => o.text === '{text}').value")


def test_it_opens_without_an_error_or_a_request(opened):
    assert opened.complaints() == [] and opened.requests() == []
    assert opened.js(SHOWN) == 12 * 8 + 2 * 40
    assert opened.js("document.querySelectorAll('article').length") == 20


def test_without_episodes_there_is_no_filter_of_their_ends(opened):
    assert opened.js("document.getElementById('f-end').offsetParent === null")


def test_filters(opened):
    choose(opened, "f-stage", option(opened, "f-stage", "zero"), 96)
    choose(opened, "f-from", "3", 80)
    choose(opened, "f-to", "4", 16)
    steps = "[...document.querySelectorAll('article header span:first-of-type')].map((s) => s.textContent)"
    assert set(opened.js(steps)) == {"step 3", "step 4"}
    opened.js("document.getElementById('clear').click()")
    opened.wait(f"{SHOWN} === 176")
    right = opened.js("index.correct.filter((r, i) => r === 1 && index.stages[index.stage[i]] === 'zero').length")
    choose(opened, "f-reason", option(opened, "f-reason", "correct"), right)
    choose(opened, "f-reward", option(opened, "f-reward", "maths"), right)
    choose(opened, "f-high", "0.5", 0)
    opened.js("document.getElementById('clear').click()")
    opened.wait(f"{SHOWN} === 176")


def test_search_in_prompts_and_completions(opened):
    choose(opened, "f-text", "STEP 7 of 3", 1)
    assert opened.js(TEXTS) == ["<think> Wait, let me check step 7 of 3 once more. </think> <answer> 4 </answer>"]
    choose(opened, "f-text", "what is 39 +", 2)
    choose(opened, "f-text", "", 176)


def test_pages_order_and_one_prompt(opened):
    choose(opened, "f-sort", "first", 176)
    opened.js("document.getElementById('next').click()")
    opened.wait("document.getElementById('status').textContent.endsWith('page 2 of 9')")
    choose(opened, "f-sort", "long", 176)
    assert "step 12" in opened.js("document.querySelector('article header').textContent")
    opened.js("[...document.querySelectorAll('article button')].find(b => b.textContent === 'same prompt').click()")
    opened.wait(f"{SHOWN} < 176")
    assert len(set(opened.js("found.map(i => index.prompt[i])"))) == 1
    opened.js("document.getElementById('every-prompt').click()")
    opened.wait(f"{SHOWN} === 176")


def test_orders(opened):
    choose(opened, "f-stage", option(opened, "f-stage", "zero"), 96)
    opened.js("document.getElementById('f-sort').value = 'correct'")
    choose(opened, "f-to", "11", 88)
    first = opened.js("document.querySelector('article header').textContent")
    assert "step 11" in first and "✓ correct" in first
    opened.js("document.getElementById('clear').click()")
    opened.wait(f"{SHOWN} === 176")
    assert opened.js("document.getElementById('f-sort').value") == "random"
    assert opened.js("found.slice(0, 20).some((row, i) => row > found[i + 1])")
    again = opened.js("found.join()")
    opened.js("filter()")
    assert opened.js("found.join()") == again


def test_a_completion_is_shown_with_its_prompt_and_without_leading_blanks(tab, make_run, tmp_path):
    start = "Solve the following problem step by step, please. "
    path = make_run(tmp_path / "blank", steps=2, text=lambda step, i: " \n It is 4.")
    for file in path.glob("*/samples/*.jsonl"):
        file.write_text(file.read_text().replace("What is", f"{start}What is"))
    (file,) = report.write([path])
    tab.open(file)
    choose(tab, "f-stage", option(tab, "f-stage", "zero"), 16)
    assert set(tab.js(TEXTS)) == {"It is 4."}
    lines = tab.js("[...document.querySelectorAll('article summary.prompt')].map((line) => line.textContent)")
    assert set(lines) == {"… 1 + 1?", "… 2 + 1?"}  # the part that differs
    full = tab.js("document.querySelector('article details pre').textContent")
    assert full.startswith(start)


def test_a_phone_shows_the_numbers_of_tables(opened):
    opened.size(390, 844, phone=True)
    cell = "document.querySelector('#verdict td:nth-child(4)').getBoundingClientRect()"
    assert opened.js(f"{cell}.left >= 0 && {cell}.right <= innerWidth")
    assert opened.js("getComputedStyle(document.querySelector('#verdict td:nth-child(4)'), '::before').content") == (
        '"difference"'
    )
    opened.size(1280, 900)


def test_the_verdict_and_its_chart_are_side_by_side_on_a_wide_window(opened):
    boxes = "[...document.querySelectorAll('#verdict .sides > div')].map((box) => box.getBoundingClientRect())"
    opened.size(1100, 900)
    assert opened.js(f"(([a, b]) => a.right <= b.left && a.top === b.top)({boxes})")
    opened.size(900, 900)
    assert opened.js(f"(([a, b]) => a.bottom <= b.top)({boxes})")
    opened.size(1280, 900)


def test_a_table_that_leaves_no_room_for_its_chart_is_whole_above_it(tab, run, make_run, tmp_path):
    runs = [run, *(make_run(tmp_path / f"a-run-of-a-long-name-{i}", steps=1, seed=i) for i in range(1, 4))]
    (file,) = report.write(runs, out=tmp_path / "wide.html")
    tab.size(1280, 900)
    tab.open(file)
    table = "document.querySelector('#verdict .sides .table')"
    assert tab.js(f"{table}.scrollWidth <= {table}.clientWidth")
    boxes = "[...document.querySelectorAll('#verdict .sides > div')].map((box) => box.getBoundingClientRect())"
    assert tab.js(f"(([a, b]) => a.bottom <= b.top)({boxes})")


def test_a_phone_needs_no_sideways_scrolling(opened):
    opened.size(390, 844, phone=True)
    assert opened.js("document.documentElement.scrollWidth <= innerWidth")
    opened.size(1280, 900)


def test_an_episode_shows_its_turns_and_replies(tab, played):
    (file,) = report.write([played])
    tab.size(1280, 900)
    tab.open(file)
    assert tab.complaints() == [] and tab.requests() == []
    choose(tab, "f-end", option(tab, "f-end", "turns"), 12 * 3 + 2 * 40)
    choose(tab, "f-stage", option(tab, "f-stage", "zero"), 12 * 3)
    parts = "[...document.querySelector('article .episode').children].map((part) => part.className)"
    assert tab.js(parts) == ["own", "reply", "own", "reply", "own", "reply", "own"]
    labels = "[...document.querySelectorAll('article:first-child .episode > div > div:first-child')]"
    shown = f"{labels}.map((label) => label.textContent)"
    assert tab.js(shown) == ["turn 1", "reply", "turn 2", "failed call", "turn 3", "failed call", "turn 4"]
    text = tab.js("document.querySelector('article').textContent")
    assert '→ age(person="Mia")' in text and "✗ a call that cannot be read: no JSON" in text
    assert "end: turns (the maximum number of turns) · not right" in text
    head = tab.js("document.querySelector('article header').textContent")
    assert "4 turns3 calls2 errors" in head
    choose(tab, "f-text", "41 AND 4", 12)  # replies are searched too
    choose(tab, "f-text", "(person=", 36)
    tab.js("document.getElementById('clear').click()")
    choose(tab, "f-sort", "turns", 12 * 8 + 2 * 160)
    assert "4 turns" in tab.js("document.querySelector('article header').textContent")
    tab.size(390, 844, phone=True)
    assert tab.js("document.documentElement.scrollWidth <= innerWidth")
    tab.size(1280, 900)


def test_an_episode_never_runs(tab, hostile_episodes):
    (file,) = report.write([hostile_episodes])
    tab.open(file)
    assert tab.complaints() == [] and tab.requests() == []
    choose(tab, "f-stage", option(tab, "f-stage", "zero"), 4 * 8 + 4)
    choose(tab, "f-sort", "turns", 4 * 8 + 4)
    assert "<script>document.title" in tab.js("document.getElementById('list').textContent")
    assert tab.js("document.querySelectorAll('article script, article img, main img').length") == 0
    assert tab.js("document.title").startswith("hostile")


def test_a_completion_never_runs(tab, hostile):
    (file,) = report.write([hostile])
    tab.open(file)
    title = tab.js("document.title")
    assert title.startswith("hostile") and tab.complaints() == [] and tab.requests() == []
    choose(tab, "f-stage", option(tab, "f-stage", "zero"), 26)
    assert any("<script>document.title" in text for text in tab.js(TEXTS))
    choose(tab, "f-text", "characters left out", 1)
    assert 20_000 < len(tab.js(TEXTS)[0]) < 20_100
    assert tab.js("document.querySelectorAll('article script, article img, main img').length") == 0
    assert tab.js("document.title") == title
    # Even where HTML gets into the page, the policy keeps its scripts from running.
    tab.js("document.getElementById('list').innerHTML = `<img src=x onerror=\"document.title='hacked'\">`")
    tab.wait("document.querySelector('#list img').complete")
    assert tab.js("document.title") == title
    assert "csp" in [event["params"].get("blockedReason") for event in tab.events]

"""Whole reports: what is in them, that nothing in them can run or be fetched, and what is refused."""

import base64
import hashlib
import re

import pytest

from r1lab import report
from r1lab.errors import UserError


@pytest.fixture(scope="module")
def text(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "report.html"
    assert report.write([run], out=out) == [out]
    return out.read_text(encoding="utf-8")


def test_the_verdict_stands_before_everything_else(text):
    order = ["Verdict", "Alarms and flags", "Stages", "Curves", "Reflection words", "Completions", "What was run"]
    assert re.findall(r"<h2>(.*?)</h2>", text) == order
    numbers, table = text.index('<dl class="numbers">'), text.index("before (base)")
    assert text.index("<h2>Verdict") < numbers < table and '<ul class="verdict">' not in text
    assert re.search(r'<dd class="good">▲ \+[0-9.]+</dd><dd>95 % interval \[', text)


def test_the_page_says_what_was_run_and_how(text):
    for told in (
        "r1lab run tried",
        "trl 1.16.0",
        "2026-01-02",
        "a CPU, 2 cores",
        "maths, format",
        "pipeline of 3 stages",
    ):
        assert told in text
    assert "stage: grpo  # &lt;b&gt;as written&lt;/b&gt;" in text
    assert "zero, step 9: alarm entropy: too low &lt;i&gt;" in text


def test_only_the_pages_own_script_may_run_and_nothing_is_fetched(text):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ") and f"script-src 'sha256-{digest}';" in policy
    assert "connect-src" not in policy and text.index("Content-Security-Policy") < text.index("<style>")
    links = re.findall(r"(?:src|href|action|data)=[\"']?([^\"'\s>]+)", text)
    assert links and all(link.startswith(("#", "data:,")) for link in links)
    assert not re.search(r"@import|url\((?!#)", text)


def test_every_curve_has_a_title_and_an_alternative_text(text):
    figures = re.findall(r"<figure.*?</figure>", text, re.DOTALL)
    assert len(figures) >= 12
    for figure in figures:
        assert re.search(r"<figcaption><b>\w", figure) and re.search(
            r'<svg [^>]*role="img" aria-label="[^"]{20,}', figure
        )
    titles = " ".join(re.findall(r"<figcaption><b>(.*?)</b>", text))
    wanted = ("Rewards", "Correct answers", "Length", "Groups without a signal", "Entropy", "KL divergence", "Speed")
    assert all(title in titles for title in (*wanted, "Importance ratio", "Time"))


def test_loss_and_gradient_norm_are_folded_away_below_the_outcome(text):
    folded = re.search(r"<details><summary>more: loss, gradient norm</summary>(.*?)</details>", text, re.DOTALL)[1]
    assert re.findall(r"<figcaption><b>(.*?)</b>", folded) == ["Loss", "Gradient norm"]


def test_no_section_and_no_legend_without_content(make_run, tmp_path):
    path = make_run(tmp_path / "plain", text=lambda step, i: "<think> two and two is four again </think> 4")
    for file in path.glob("*/samples/questions.jsonl"):
        file.write_text(file.read_text().replace("It is 4.", "Two and two is four, so it is 4."))
    (file,) = report.write([path])
    text = file.read_text(encoding="utf-8")
    assert "Reflection words" not in text and '<dl class="terms">' not in text
    assert not re.search(r"<td[^>]*>-</td>", text)


def test_the_legend_has_the_flags_of_the_table(text):
    terms = re.search(r'<dl class="terms">(.*?)</dl>', text)[1]
    assert re.findall(r"<dt>(.*?)</dt>", terms) == ["bare"]


def test_what_a_model_wrote_never_stands_in_the_page_as_it_is(hostile):
    (file,) = report.write([hostile])
    text = file.read_text(encoding="utf-8")
    assert file == hostile / "report.html"
    assert "&lt;script&gt;document.title = &#x27;hacked&#x27;" in text  # beside the reflection word before it
    assert "<img" not in text and "document.title = 'hacked'</script>" not in text
    assert "\x00" not in text and "\x1b" not in text


def test_a_damaged_run_says_what_is_missing(hostile):
    (file,) = report.write([hostile], format="md")
    text = file.read_text(encoding="utf-8").replace("\\", "")
    for told in (
        "hostile/manifest.json: missing",
        "hostile/result.json: missing, the run has not finished",
        "02-zero/result.json: cannot be read, it is not a JSON object",
        "03-after/result.json: missing, the stage has not finished",
        "02-zero/metrics.jsonl: 1 line is not a JSON object, skipped",
        "02-zero/samples/step_000001.jsonl: 2 lines are not JSON objects, skipped",
        "02-zero/samples/step_000001.jsonl: 1 line has bytes that are not UTF-8",
        "zero: its result.json is damaged; it is at step 7 of ?",
    ):
        assert told in text


def test_an_empty_stage_of_a_run_is_a_report_too(tmp_path):
    (tmp_path / "run" / "01-base").mkdir(parents=True)
    (file,) = report.write([tmp_path / "run"])
    text = file.read_text(encoding="utf-8")
    assert "so it has no outcome" in text and "No completions were found." in text
    assert "01-base/metrics.jsonl: missing" in text


def test_markdown_with_its_pictures(run, tmp_path):
    file, *pictures = report.write([run], out=tmp_path / "of run.md", format="md", png=True)
    text = file.read_text(encoding="utf-8")
    assert {picture.parent for picture in pictures} == {tmp_path / "of run"}
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
    linked = re.findall(r"!\[.*?\]\((.*?)\)", text)
    shown = [tmp_path / link.replace("%20", " ") for link in linked]
    assert len(shown) == 3 and set(shown) < set(pictures)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(row.count(" | ") == rows[0].count(" | ") for row in rows[:3])
    assert "| maths | 17.5 \\[" in text and "] | ▲ +" in text and "too low \\<i\\>" in text


def test_runs_that_differ_in_their_seed_are_a_band(make_run, run, tmp_path):
    other, faster = make_run(tmp_path / "tried-1", seed=1), make_run(tmp_path / "fast", rate=1.0, steps=4)
    (file,) = report.write([run, other, faster])
    text = file.read_text(encoding="utf-8")
    assert file == run.parent / "report.html"
    assert "Entropy. tried (2 runs): mean of 2 runs from" in text and "; fast: from" in text
    assert "bands range from the lowest run to the highest" in text
    assert '<th scope="col">mean of the runs</th>' in text
    file.unlink()


def test_a_run_of_few_steps_is_told_by_its_first_and_last_step(make_run, tmp_path):
    (file,) = report.write([make_run(tmp_path / "short", steps=2)])
    text = file.read_text(encoding="utf-8")
    assert " fifth" not in text and " tenth" not in text
    assert "Occurrences per completion, in the first and in the last step." in text
    assert "Arrows: from the first step to the last." in text


def test_a_stage_of_a_pipeline_by_itself(run):
    (file,) = report.write([run / "02-zero"])
    text = file.read_text(encoding="utf-8")
    assert "zero: " in text and "of the completions are correct in the first fifth of the steps" in text
    assert "a CPU" in text and 'id="missing"' not in text  # the manifest of the run is that of its stages
    file.unlink()


@pytest.mark.parametrize(
    ("paths", "settings", "told"),
    [
        (["nowhere"], {}, "nowhere: no such run directory: `r1lab ls runs` lists the existing ones"),
        (["."], {}, ".: contains no run: name a folder that `r1lab run` wrote, as in runs/quickstart"),
        ([".", "../{here}"], {}, "r1lab report: a run is named twice; name each run once"),
        (["."], {"format": "pdf"}, "--format pdf: html or md"),
        (
            ["runs/quikstart"],
            {},
            "runs/quikstart: no such run directory (did you mean `runs/quickstart`?): `r1lab ls runs` "
            "lists the existing ones",
        ),
    ],
)
def test_what_is_refused(tmp_path, monkeypatch, paths, settings, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    (tmp_path / "runs" / "quickstart" / "config.yaml").touch()
    with pytest.raises(UserError) as error:
        report.write([path.format(here=tmp_path.name) for path in paths], **settings)
    assert error.value.problems == [told]


def test_a_place_that_cannot_be_written_to(run, tmp_path):
    with pytest.raises(UserError, match="--out .*: is a folder: name a file, as in --out report.html"):
        report.write([run], out=tmp_path)
    with pytest.raises(UserError, match="its folder does not exist"):
        report.write([run], out=tmp_path / "no" / "report.html")


def test_the_format_follows_the_name_of_the_file(run, tmp_path):
    assert report.write([run], out=tmp_path / "x.md")[0].read_text().startswith("# tried")
    assert report.write([run], out=tmp_path / "plain", format="md") == [tmp_path / "plain.md"]
    for out, settings, told in (
        ("x.md", {"format": "html"}, "ends in .md, but --format is html; omit one of them"),
        ("x.txt", {}, "name a file that ends in .html or .md, or has no extension"),
    ):
        with pytest.raises(UserError, match=told):
            report.write([run], out=tmp_path / out, **settings)


def test_pictures_of_a_report_lie_beside_it_again_and_again(run, tmp_path, monkeypatch):
    monkeypatch.setattr(report.figures, "png", lambda make, path, title: path)
    for _ in range(2):
        file, *pictures = report.write([run], out=tmp_path / "report", png=True)
        assert file == tmp_path / "report.html" and {p.parent for p in pictures} == {tmp_path / "report"}


def test_what_stands_in_the_way_of_pictures_is_told_before_any_is_drawn(run, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_pictures", None)
    (tmp_path / "y").touch()
    with pytest.raises(UserError, match="--png creates the folder .*y, but that is a file; use another name"):
        report.write([run], out=tmp_path / "y.html", png=True)

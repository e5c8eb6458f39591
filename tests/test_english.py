"""The words that people read: the field's own terms, in American spelling."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

BANNED = {
    r"told": "reported, listed, shown, warned about",
    r"in small": "at small scale, scaled down",
    r"mend(s|ed|ing)?": "fix",
    r"hangs? on": "depends on",
    r"taken? up|takes? (it|them|that) up|goe?s? on with it": "resumed, resumes",
    r"\w+-manieth": "n-th",
    r"by heart": "memorized",
    r"(cannot|can|to) be had": "available",
    r"beside": "next to, alongside, compared with, besides",
    r"(is|are|was|were|been|being|be) cut( off)?": "truncated",
    r"stands? (in the way|under|above|below|between|on its|on the)": "is, lies, prevents",
    r"(held|hold|holds) against": "compared with",
    r"what it has read": "its pretraining data",
    r"so many": "the number of",
    r"(tokens|rows?|steps|times|once|files?|requests|prompts|seconds|completions|samples|calls|one|line|words)"
    r" an? (second|minute|hour|step|stage|group|prompt|device|gpu|row|file|line|kind|token|run|class|question)": "per",
    r"(behavi|col|neighb|fav|hon|lab)our\w*": "American spelling: -or",
    r"\w*(centre|licence|artefact|judgement|grey|programme)s?": "American spelling",
    r"(label|model|cancel|travel|signal)l(ed|ing)": "American spelling: one l",
    r"analys(e|ed|es|ing|er)": "American spelling: -yze",
    r"\w*(optim|recogn|normal|memor|quant|initial|serial|summar|organ|general|penal|special|util|real|standard|parallel"
    r"|random|token|vector|minim|maxim|custom|categor|character|emphas|visual|synchron)is(e|es|ed|er|ers|ing|ation)": (
        "American spelling: -ize"
    ),
    r"whilst|amongst|upon|thereof|whereof|therein|wherein|hereby": "plain words",
}

CONTENT = {"data/instructions_text.py"}
"""Files whose text is training data."""

PUZZLES = re.compile(r"told you that|told\\s\+the\\s\+truth")
"""Expressions of Knights-and-Knaves puzzles and of answers to them."""


def files() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    read = (".py", ".md", ".yaml", ".toml", ".css", ".js")
    return [
        name
        for name in listed
        if (name.endswith(read) or name == "Makefile")
        and not name.startswith(("data/embedded/", "tests/"))
        and name not in CONTENT
    ]


@pytest.mark.parametrize("name", files())
def test_no_banned_words(name):
    found = []
    for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1):
        line = PUZZLES.sub("", line)
        for words, instead in BANNED.items():
            for match in re.finditer(rf"(?<![\w-])({words})(?![\w(-])", line, re.IGNORECASE):
                found.append(f"{name}:{number}: {match.group()!r}: {instead}")
    assert found == []

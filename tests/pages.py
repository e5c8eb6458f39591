"""The pages of the documentation, and what their blocks hold: commands with their marks, files, programs, recipes."""

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))]
SHELL = ("bash", "console", "sh", "")
MARK = re.compile(
    r"\bneeds (a GPU|several GPUs|the Hub|the network|a server|a cluster|lm-eval|lighteval|the runs? above)\b"
    r"|\btakes (about )?((\d+ (to \d+ )?)?(seconds|minutes|hours)|an? (minute|hour))\b"
)
"""What a comment says of a command, or of all commands below it, that a test cannot run as it is."""
STATUS = re.compile(r"\bexits with status (\d)")
"""What the comment of a command says that is supposed to fail."""


OPEN = re.compile(r"\b[A-Z]{2,}\b|=[A-Z]\b|[\[…]|\.\.\.|^r1lab (?!ls|doctor)\w+( --\w+)*$")
"""What a command in a sentence leaves open: RECIPE, [QUESTION], or all that its verb takes."""


@dataclass
class Command:
    page: str
    line: str
    comment: str
    mark: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.line)

    @property
    def status(self) -> int:
        said = STATUS.search(self.comment)
        return int(said[1]) if said else 0


def blocks(page: str) -> list[tuple[str, str]]:
    """Each block of a page, with its language."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.S | re.M)


def commands(page: str) -> list[Command]:
    """The commands of a page's shell blocks. Where a block shows output too, these are the lines that begin with $."""
    found = []
    for language, block in blocks(page):
        if language not in SHELL or not language and not block.startswith("$ "):
            continue
        mark = ""
        for line in block.replace("\\\n", " ").splitlines():
            if not language and not line.startswith("$ "):
                continue
            line, _, comment = re.sub(r"^\$ ", "", line).partition("# ")
            said = MARK.search(comment)
            if line.strip():
                found.append(Command(page, line.strip(), comment, said[0] if said else mark))
            elif said:
                mark = said[0]
    return found


def named_files(page: str) -> dict[str, str]:
    """The files that a page shows: blocks whose first line is a comment that begins with their name."""
    shown = (re.match(r"# (\S+\.(?:py|yaml|jinja))\b.*\n", block) and block for _, block in blocks(page))
    return {block.split(maxsplit=2)[1].rstrip(","): block for block in shown if block}


def write_files(page: str, folder: Path) -> dict[str, str]:
    """Writes the files that a page shows, and the reader's own data that it speaks of."""
    files = named_files(page)
    question = "{name} has {a} coins and buys {b} more. How many coins does {name} have now?"
    rows = [
        {"question": question.format(name=name, a=a, b=b), "final": str(a + b)}
        for a in range(20, 36)
        for name, b in (("Ann", 7), ("Gina", 28), ("Tom", 33), ("Ravi", 41))
    ]
    own = {
        "train.jsonl": rows,
        "mine.jsonl": [{"prompt": row["question"], "answer": row["final"]} for row in rows[:4]],
    }
    texts = {name: "".join(json.dumps(row) + "\n" for row in rows) for name, rows in own.items()} | files
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return files


def in_sentences() -> list[tuple[str, str]]:
    """The commands in the sentences of all pages that leave nothing open, with their pages."""
    found = []
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.S | re.M)
        spans = (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text))
        found += [(page, span) for span in spans if re.match(r"(r1lab|python) [a-z-]", span) and not OPEN.search(span)]
    return found

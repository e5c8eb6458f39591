"""`r1lab report`: runs as one self-contained HTML file, or as short Markdown, with the curves as PNG."""

import re
from functools import partial
from pathlib import Path

from r1lab.errors import UserError
from r1lab.report import content, figures, groups, markdown, page, read, samples, verdict
from r1lab.rundir import storage

FORMATS = {"html": "report.html", "md": "report.md"}


def write(
    paths: list[str | Path], *, out: str | Path | None = None, format: str | None = None, png: bool = False
) -> list[Path]:
    """Writes the report of runs.

    Args:
        paths: Run directories, or folders of single stages of a pipeline.
        out: The file; None for `report.html` or `report.md` in the run's directory, or next to the first of several
            runs.
        format: `html` or `md`; None for the extension of `out`, and `html` without one.
        png: Whether to write each curve also as a PNG, into a folder named after the file.

    Returns:
        The report, then the pictures.

    Raises:
        UserError: A path contains no run or is named twice, or `out` cannot be written.
    """
    if format not in (None, *FORMATS):
        raise UserError(f"--format {format}: html or md")
    folders = [Path(path) for path in paths]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("r1lab report: a run is named twice; name each run once")
    runs = groups.named([read.read(folder) for folder in folders])
    home = folders[0] if len(folders) == 1 else folders[0].resolve().parent
    file, format = _target(Path(out) if out else home / FORMATS[format or "html"], format)
    folder = file.with_suffix("")
    if png and folder.exists() and not folder.is_dir():
        raise UserError(f"--out {file}: --png creates the folder {folder}, but that is a file; use another name")
    completions = [samples.read(run, run.problems) for run in runs]
    curves = charts(runs, completions)
    pictures = _pictures(runs, curves, folder) if png else []
    if format == "md":
        linked = [(title, path.relative_to(file.parent)) for title, path, main in pictures if main]
        text = markdown.markdown(runs, completions, linked)
    else:
        text = page.html(runs, completions, curves)
    storage.write_text_atomic(file, text)
    return [file, *(path for _, path, _ in pictures)]


def _target(out: Path, format: str | None) -> tuple[Path, str]:
    """The file that `--out` names, with the extension of its format, and the format."""
    ending = out.suffix.removeprefix(".").lower()
    if ending and ending not in FORMATS:
        raise UserError(f"--out {out}: name a file that ends in .html or .md, or has no extension")
    if ending and format and format != ending:
        raise UserError(f"--out {out}: ends in .{ending}, but --format is {format}; omit one of them")
    format = format or ending or "html"
    file = out if ending else out.parent / f"{out.name}.{format}"
    # A folder without a report of the same name next to it is not one of pictures: the user wants to write into it.
    if file.is_dir() or not file.parent.is_dir() or (out.is_dir() and not file.is_file()):
        what = "is a folder" if file.parent.is_dir() else "its folder does not exist"
        raise UserError(f"--out {out}: {what}: name a file, as in --out {FORMATS[format]}")
    return file, format


def charts(runs: list, completions: list[dict]) -> list[tuple[str, list[figures.Chart]]]:
    """The charts of each training stage; runs that differ only in their seeds share lines."""
    own = {id(run): of for run, of in zip(runs, completions)}
    stages: dict[str, dict[str, list]] = {}
    for group in groups.groups(runs):
        for run in group.runs:
            for stage in filter(content.is_training, run.stages):
                name = stage.name if run.pipeline else stage.kind  # the common property of single-stage runs
                members = stages.setdefault(name, {}).setdefault(group.label, [])
                members.append((stage, own[id(run)].get(stage.name, [])))
    return [(name, figures.charts(groups)) for name, groups in stages.items()]


def _pictures(runs: list, curves: list[tuple[str, list[figures.Chart]]], folder: Path) -> list[tuple[str, Path, bool]]:
    """Writes the charts as PNG; returns for each its title, its path, and whether a short report shows it."""
    folder.mkdir(exist_ok=True)
    wanted = []
    for task, rows in verdict.accuracies(runs).items():
        names = [run.name for run in runs if any(row[1] == run.name for row in rows)]
        wanted.append((f"{task}: accuracy of each evaluation", partial(figures.accuracies, rows, names), True))
    for stage, of in curves:
        main = {"reward" if any(c.key == "reward" for c in of) else "correct", "length"}
        wanted += [(f"{stage}: {c.title}", partial(figures.draw, c), c.key in main) for c in of]
    made = []
    for title, make, main in wanted:
        path = folder / f"{re.sub(r'[^a-z0-9_]+', '-', title.lower()).strip('-')}.png"
        made.append((title, figures.png(make, path, title), main))
    return made

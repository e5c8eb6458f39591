"""What the end of a log says."""

import pytest

from r1lab.rundir import logs


def test_the_last_line_of_a_log_has_no_colours_and_begins_where_told(tmp_path):
    log = tmp_path / "log.txt"
    assert logs.last_line(log) == ""
    log.write_text("old\n" + "x" * 30_000 + "\n 1%|\r\x1b[31m99%|done\x1b[0m\n\n  \n")
    assert logs.last_line(log) == "99%|done"
    assert logs.last_line(log, log.stat().st_size) == ""


TORCH = """
INFO started
Traceback (most recent call last):
  File "stages.py", line 3, in run
    compile()
    ^^^^^^^^^
torch._inductor.exc.InductorError: InvalidCxxCompiler: No working C++ compiler

Set TORCHDYNAMO_VERBOSE=1 for the internal stack trace.
"""
ENGINE = """
(EngineCore pid=7) ERROR 11-29 01:02:03 [core.py:981] Traceback (most recent call last):
(EngineCore pid=7) ERROR 11-29 01:02:03 [core.py:981]   File "core.py", line 972, in run
(EngineCore pid=7) ERROR 11-29 01:02:03 [core.py:981]     engine()
(EngineCore pid=7) ERROR 11-29 01:02:03 [core.py:981] ValueError: No available memory for the cache blocks.
Traceback (most recent call last):
  File "stages.py", line 3, in run
    raise RuntimeError()
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
CHAINED = """
Traceback (most recent call last):
  File "a.py", line 1, in f
KeyError: 'x'

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "b.py", line 1, in g
OSError: cannot read it
INFO shutting down
"""
INTRODUCED = "Traceback (most recent call last):\n  File 'a'\nValueError: these do not fit:\n  three and four\n"


@pytest.mark.parametrize(
    ("log", "says"),
    [
        (TORCH, "torch._inductor.exc.InductorError: InvalidCxxCompiler: No working C++ compiler"),
        (ENGINE, "ValueError: No available memory for the cache blocks."),
        (CHAINED, "OSError: cannot read it"),
        (INTRODUCED, "ValueError: these do not fit: three and four"),
        ("all is well\nTraceback is a word\n", ""),
    ],
)
def test_the_exception_of_a_log_is_found_before_the_advice_that_follows_it(tmp_path, log, says):
    path = tmp_path / "log.txt"
    path.write_text(log)
    found = logs.exception(path)
    assert found.startswith(says) and bool(found) == bool(says)
    assert logs.exception(path, path.stat().st_size) == ""  # an earlier attempt's does not count

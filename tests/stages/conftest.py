"""What the tests of stages share."""

from contextlib import contextmanager

import pytest

from r1lab.rundir import storage


class Killed(BaseException):
    """Ends a stage where a SIGKILL would: nothing catches it."""


@pytest.fixture
def killed_after(monkeypatch):
    """A block that must end by `Killed`, right after the first row of partial.jsonl that `is_last` is true of."""

    @contextmanager
    def block(is_last):
        plain = storage.append_jsonl

        def append(path, row):
            plain(path, row)
            if path.name == "partial.jsonl" and is_last(row):
                raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(storage, "append_jsonl", append)
            yield

    return block

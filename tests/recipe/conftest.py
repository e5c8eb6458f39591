import pytest


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a file into the current folder, which is empty, and gives its name."""
    monkeypatch.chdir(tmp_path)

    def to(text, name="r.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return name

    return to

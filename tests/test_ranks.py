"""The environment variables of a launcher, as a process reads them."""

from r1lab import ranks


def test_a_process_without_a_launcher_is_the_only_rank(monkeypatch, tmp_path):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (ranks.rank(), ranks.world_size(), ranks.is_main()) == (0, 1, True)
    ranks.beat(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_each_of_several_ranks_has_its_own_sign_of_life(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert ranks.is_main() == (rank == "0")
        ranks.beat(tmp_path)
    assert sorted(path.name for path in ranks.folder(tmp_path).iterdir()) == ["0.beat", "1.beat"]

"""Tests of tools/bench_score.py: its inputs differ, and it times both the loop and the engine."""

import sys
from pathlib import Path

import pytest

pq = pytest.importorskip("pyarrow.parquet", reason='needs pyarrow: pip install "edgelstm[score]"')


def test_the_inputs_are_different_pictures(tmp_path):
    from bench_score import write_inputs

    write_inputs(tmp_path / "x.parquet", 2000)
    assert 2000 == len(set(pq.read_table(tmp_path / "x.parquet")["bytes"].to_pylist()))


def test_loop_and_local_are_timed(monkeypatch, capsys, tmp_path):
    import bench_score

    import edgelstm

    monkeypatch.setenv("PYTHONPATH", str(Path(edgelstm.__file__).parents[1]))
    arguments = ["bench_score.py", str(tmp_path), "--inputs", "40", "--rounds", "1", "--engines", "loop", "local"]
    monkeypatch.setattr(sys, "argv", arguments)
    bench_score.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("40 inputs, 1 rounds, ")
    assert ["loop", "local"] == [line.split()[1] for line in lines[-2:]]

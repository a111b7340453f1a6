"""Tests of edgelstm.runtime.scoring: the same batches in the same order, and every input exactly once."""

import itertools
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scored import DEADLY, files, rows

import edgelstm
from edgelstm.config import ModelConfig
from edgelstm.errors import EdgeLstmError, OutputError, PictureError
from edgelstm.files import FolderLock, sha256_of
from edgelstm.runtime import parts as parts_module
from edgelstm.runtime import scoring as workers_module
from edgelstm.runtime.classifier import CHUNK, Classifier, prepare_each
from edgelstm.runtime.scoring import Workers, score

TIMEOUT_S = 60
MODEL = ModelConfig()


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """What Workers sets for good is put back."""
    for name in ("PYTHONSAFEPATH", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "")


@pytest.fixture
def workers():
    with Workers(2) as two:
        yield two


@pytest.fixture
def digit(tmp_path, sample):
    path = tmp_path / "digit.png"
    Image.fromarray(sample.sequences[0]).save(path)
    return path


@pytest.fixture
def mixed(tmp_path, sample):
    """Chunks of slow, quick and bad pictures, as text, paths and bytes: the slow chunk is the first."""
    quick = []
    for i, image in enumerate(sample.sequences[:40]):
        quick.append(tmp_path / f"{i}.png")
        Image.fromarray(image).save(quick[-1])
    slow = str(tmp_path / "slow.png")
    large = np.kron(255 - sample.sequences[0], np.ones((60, 60), np.uint8))
    Image.fromarray(large).save(slow)
    (tmp_path / "text.png").write_text("no picture")
    bad = [str(tmp_path / "missing.png"), tmp_path / "text.png", b"", "nul\0.png", os.fsdecode(b"\xff.png")]
    return [[slow] * 8, quick[:20], bad, [slow, *bad, *quick[20:]], [quick[0].read_bytes()], quick[:1]]


def test_workers_give_what_this_process_gives_in_the_same_order(workers, mixed):
    expected = list(prepare_each(iter(mixed), MODEL))
    found = list(workers.prepare_each(iter(mixed), MODEL))
    assert len(mixed) == len(found)
    for ours, theirs in zip(expected, found, strict=True):
        assert ours == theirs
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one.sequence, other.sequence)


def test_workers_can_be_asked_again(workers, digit):
    for _ in range(2):
        found = list(workers.prepare_each(iter([[digit]] * 2), MODEL))
        assert [(28, 28), (28, 28)] == [one.sequence.shape for [one] in found]


def test_no_pictures_give_no_batches(workers):
    assert [] == list(workers.prepare_each(iter([]), MODEL))


def test_the_pictures_in_flight_are_bounded(workers, digit):
    taken = itertools.count()
    endless = ([digit] for _ in iter(lambda: next(taken), None))
    batches = workers.prepare_each(endless, MODEL)
    for n_answered in range(3):
        next(batches)
        assert workers.n_ahead + n_answered == _peek(taken)
    assert workers.n_ahead == 5


def _peek(counter):
    return counter.__reduce__()[1][0]


def test_many_bytes_do_not_lock_the_pipes(workers):
    """Messages larger than a pipe holds, both ways at once."""
    junk = [bytes(2**16)] * CHUNK
    answers = list(workers.prepare_each(iter([junk] * 8), MODEL))
    assert [CHUNK] * 8 == [sum(one.error is not None for one in batch) for batch in answers]


def test_the_end_ends_the_processes_in_the_middle_of_their_work(mixed):
    with Workers(2) as workers:
        next(workers.prepare_each(itertools.cycle(mixed), MODEL))
        processes = multiprocessing.active_children()
        assert [True, True] == [process.is_alive() for process in processes]
    assert [False, False] == [process.is_alive() for process in processes]


def test_the_processes_end_when_the_one_that_started_them_does(workers):
    processes = multiprocessing.active_children()
    workers._lifeline.close()  # as the system does, however a process ends
    assert processes
    for process in processes:
        process.join(timeout=TIMEOUT_S)
    for _ in range(1000):  # the pool waits for them too: it may have the exit status, and not have told it yet
        if not any(process.is_alive() for process in processes):
            break
        time.sleep(0.01)
    assert not any(process.is_alive() for process in processes)


def test_a_worker_that_is_killed_is_a_clear_error_after_what_was_answered_before(digit):
    with Workers(1) as worker:
        answers = worker.prepare_each(iter([[digit]] * 20), MODEL)
        next(answers)
        worker._pool.submit(os.getpid).result(timeout=TIMEOUT_S)  # so it has answered what it was given before
        [process] = multiprocessing.active_children()
        process.kill()
        process.join(timeout=TIMEOUT_S)
        for _ in range(worker.n_ahead - 1):
            assert [None] == [one.error for one in next(answers)]
        with pytest.raises(PictureError, match=f"broke off: found no answer from {digit} on; leave out the one"):
            list(answers)


class Broken:
    """Pickles well, and raises where it arrives."""

    def __reduce__(self):
        return int, ("no number",)


def broken_answer(*_):
    return Broken()


def test_a_worker_that_sends_what_cannot_be_read_is_a_clear_error(workers, digit, monkeypatch):
    monkeypatch.setattr(workers_module, "prepare", broken_answer)
    with pytest.raises(PictureError, match="a process that prepares the inputs broke off"):
        list(workers.prepare_each(iter([[digit]]), MODEL))


def test_the_workers_compute_on_one_thread_each_and_ignore_ctrl_c(workers):
    assert workers._pool.submit(os.getenv, "OPENBLAS_NUM_THREADS").result() == "1"
    assert workers._pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_a_module_beside_the_pictures_is_not_imported(monkeypatch, tmp_path, digit):
    (tmp_path / "pickle.py").write_text("raise SystemExit(4)")
    monkeypatch.chdir(tmp_path)
    with Workers(1) as workers:
        [batch] = workers.prepare_each(iter([[digit]]), MODEL)
    assert [None] == [one.error for one in batch]


def test_a_frozen_program_and_one_core_have_no_workers(monkeypatch):
    monkeypatch.setattr(workers_module, "n_cores", lambda: 2)
    assert workers_module.can_start()
    monkeypatch.setattr("sys.frozen", True, raising=False)
    assert not workers_module.can_start()
    monkeypatch.delattr("sys.frozen")
    monkeypatch.setattr(workers_module, "n_cores", lambda: 1)
    assert not workers_module.can_start()


# Jobs


@pytest.fixture
def here(monkeypatch, tmp_path):
    pytest.importorskip("pyarrow", reason='needs pyarrow: pip install "edgelstm[score]"')
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def alone(monkeypatch):
    """Parts are scored in this process."""
    monkeypatch.setattr("sys.frozen", True, raising=False)


@pytest.fixture
def listed(here, sample):
    """A list of 700 inputs in three parts: pictures, some of them bad, some twice."""
    for i, image in enumerate(sample.sequences[:5]):
        Image.fromarray(image).save(f"{i}.png")
    (here / "bad.png").write_text("no picture")
    names = [f"{i % 5}.png" if i % 7 else "bad.png" if i % 2 else "missing.png" for i in range(700)]
    (here / "list.txt").write_text("\n".join(names))
    return names


def scored(tiny_model_bytes, output="out", source="list.txt", **options):
    return score(source, Path(output), tiny_model_bytes, **options)


@pytest.mark.usefixtures("alone")
def test_the_rows_are_what_the_classifier_says_in_the_order_of_the_list(listed, tiny_model_bytes, here):
    done = scored(tiny_model_bytes)
    found = rows(here / "out")
    expected = list(Classifier(tiny_model_bytes).classify_many(listed))
    assert [one.source for one in expected] == [row["path"] for row in found] == listed
    for one, row in zip(expected, found, strict=True):
        answer = (one.label, one.index, one.confidence, one.note, one.error)
        assert answer == tuple(row[key] for key in ("label", "index", "confidence", "note", "error"))
    assert {sha256_of(tiny_model_bytes)} == {row["model_sha256"] for row in found}
    assert (700, 100, 0) == (done.counts.n, done.counts.n_errors, done.n_earlier)
    assert done.counts.n_abstained == sum(one.abstained for one in expected)
    files(here / "out")


def test_processes_give_the_bytes_that_one_gives(listed, tiny_model_bytes, here, monkeypatch):
    scored(tiny_model_bytes, "many")
    monkeypatch.setattr("sys.frozen", True, raising=False)
    scored(tiny_model_bytes, "one")
    assert files(here / "one") == files(here / "many")


@pytest.mark.usefixtures("alone")
def test_a_finished_job_is_not_done_again_and_a_damaged_part_is(listed, tiny_model_bytes, here):
    scored(tiny_model_bytes)
    before = files(here / "out")
    done = scored(tiny_model_bytes)
    assert (700, 700) == (done.n_earlier, done.counts.n)
    part = here / "out" / "part-000001.parquet"
    middle = bytearray(before[part.name])
    middle[len(middle) // 3] ^= 255
    for content in (before[part.name][:-20], b"", bytes(middle), before["part-000000.parquet"][:0] + b"PAR1"):
        part.write_bytes(content)
        done = scored(tiny_model_bytes)
        assert (467, 700, before) == (done.n_earlier, done.counts.n, files(here / "out"))


@pytest.mark.usefixtures("alone")
def test_a_part_of_another_job_or_with_other_rows_is_done_again(listed, tiny_model_bytes, here):
    scored(tiny_model_bytes)
    scored(tiny_model_bytes, "other", batch_size=7)
    before = files(here / "out")
    one, another = (here / "out" / f"part-00000{i}.parquet" for i in (0, 2))
    for foreign in ((here / "other" / one.name).read_bytes(), another.read_bytes()):
        one.write_bytes(foreign)
        assert 467 == scored(tiny_model_bytes).n_earlier
        assert before == files(here / "out")


def test_another_job_is_refused_and_says_what_differs(
    listed, tiny_model_bytes, checkpoint_of, model_bytes_of, here, alone
):
    scored(tiny_model_bytes)
    before = files(here / "out")
    other = model_bytes_of(checkpoint_of(ModelConfig(hidden_size=4)))
    (here / "short.txt").write_text("0.png\n")
    cases = [
        ("inputs", tiny_model_bytes, {"source": "short.txt"}), ("model", other, {}),
        ("batch size", tiny_model_bytes, {"batch_size": 8}),
    ]  # fmt: skip
    for what, model, options in cases:
        with pytest.raises(OutputError, match=f"out holds another job: found another {what} in _manifest.json; choose"):
            scored(model, **options)
    (here / "list.txt").write_text("0.png\n" * 700)  # the source has changed since
    with pytest.raises(OutputError, match="found another inputs"):
        scored(tiny_model_bytes)
    assert before == files(here / "out")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "an empty file"), (b"{", "no JSON"), (b"[1]", "another job"), (b"{}", "another job"),
        (b"null", "another job"),
        (b"[" * 2**18, "no JSON"), (b"\xff\xfe\x00", "no JSON"), (bytes(2**21), "2,097,152 bytes"), (None, "a folder"),
    ],
)  # fmt: skip
def test_a_hostile_manifest_is_refused(listed, tiny_model_bytes, here, alone, content, expected):
    path = here / "out" / "_manifest.json"
    path.parent.mkdir()
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(OutputError, match=expected):
        scored(tiny_model_bytes)
    assert ["_manifest.json"] == os.listdir("out")


def test_parts_without_a_manifest_are_refused_and_other_files_stay(listed, tiny_model_bytes, here, alone):
    (here / "out").mkdir()
    (here / "out" / "notes.txt").write_text("mine")
    scored(tiny_model_bytes)
    assert "mine" == (here / "out" / "notes.txt").read_text()
    (here / "out" / "_manifest.json").unlink()
    with pytest.raises(OutputError, match="out holds parts, but no _manifest"):
        scored(tiny_model_bytes)


def test_an_output_that_cannot_be_written_or_is_in_use_is_refused(listed, tiny_model_bytes, here, alone):
    (here / "file").write_text("")
    for output in ("file", "file/below"):
        with pytest.raises(OutputError, match="cannot write"):
            scored(tiny_model_bytes, output)
    (here / "out").mkdir()
    lock = FolderLock(here / "out", "another scoring writes into")
    with pytest.raises(OutputError, match="another scoring writes into out"):
        scored(tiny_model_bytes)
    lock.close()


def test_a_full_disk_is_one_error_and_the_same_job_goes_on_later(listed, tiny_model_bytes, here, alone, monkeypatch):
    write = parts_module.write_bytes

    def full(target, content):
        if target.name == "part-000001.parquet":
            raise OutputError("cannot write", found="No space left on device")
        write(target, content)

    monkeypatch.setattr(parts_module, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left"):
        scored(tiny_model_bytes)
    assert {"part-000000.parquet"} == set(dict.fromkeys(p.name for p in (here / "out").glob("part-*")))
    monkeypatch.setattr(parts_module, "write_bytes", write)
    assert (233, 700) == ((done := scored(tiny_model_bytes)).n_earlier, done.counts.n)
    scored(tiny_model_bytes, "undisturbed")
    assert files(here / "undisturbed") == files(here / "out")


def test_what_a_killed_run_left_half_done_is_removed(listed, tiny_model_bytes, here, alone):
    (here / "out").mkdir()
    for name in (".part-000001.parquet.abcdefgh.part", "._inputs.parquet.part"):
        (here / "out" / name).write_bytes(b"half")
    scored(tiny_model_bytes)
    assert {"_manifest.json", "_inputs.parquet", *files(here / "out")} == set(os.listdir("out"))


@pytest.mark.parametrize("batch_size", [1, 16])
def test_a_worker_that_dies_costs_the_input_that_did_it(listed, tiny_model_bytes, here, monkeypatch, batch_size):
    """Two workers, three inputs that crash whoever reads them: two in one part, one in the last."""
    (here / "sitecustomize.py").write_text(DEADLY)
    names = list(listed)
    deadly = [3, 200, 699]
    for at in deadly:
        names[at] = "deadly.png"
    (here / "list.txt").write_text("\n".join(names))
    (here / "alike.txt").write_text("\n".join(name.replace("deadly", "bad") for name in names))
    monkeypatch.setenv("PYTHONPATH", f"{here}{os.pathsep}{Path(edgelstm.__file__).parents[1]}")
    done = scored(tiny_model_bytes, batch_size=batch_size)
    scored(tiny_model_bytes, "alike", "alike.txt", batch_size=batch_size)
    found, expected = rows(here / "out"), rows(here / "alike")
    assert names == [row["path"] for row in found]
    assert deadly == [at for at, (one, other) in enumerate(zip(found, expected, strict=True)) if one != other]
    error = "cannot read deadly.png: found a process that ended, each time, while it read this input"
    assert {error} == {found[at]["error"] for at in deadly}
    assert done.counts.n_errors == sum(row["error"] is not None for row in found)
    files(here / "out")


def test_workers_that_end_at_their_start_are_an_error(listed, tiny_model_bytes, here, monkeypatch):
    (here / "sitecustomize.py").write_text("import os, sys\nif '--multiprocessing-fork' in sys.argv: os._exit(3)")
    monkeypatch.setenv("PYTHONPATH", f"{here}{os.pathsep}{Path(edgelstm.__file__).parents[1]}")
    with pytest.raises(EdgeLstmError, match="a worker process ended at its start; see how much memory is free"):
        scored(tiny_model_bytes)


@pytest.mark.usefixtures("alone")
def test_values_are_scored_from_files_bytes_and_arrays(here, checkpoint_of, model_bytes_of):
    import pyarrow as pa
    import pyarrow.parquet as pq

    config = ModelConfig(
        rows=6, cols=3, hidden_size=4, preparation="values", class_names=("rest", "walk"), variable_length=True
    )
    model = model_bytes_of(checkpoint_of(config))
    draw = np.random.default_rng(0)
    sequences = [draw.normal(size=(n, 3)).astype(np.float32) for n in (6, 2, 4, 6)]
    (here / "v").mkdir()
    for i, sequence in enumerate(sequences):
        np.save(f"v/{i}.npy", sequence)
    padded = np.zeros((4, 6, 3), np.float32)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    np.savez("v.npz", X=padded, lengths=np.array([6, 2, 4, 6]))
    contents = [(here / "v" / f"{i}.npy").read_bytes() for i in range(4)]
    pq.write_table(pa.table({"bytes": contents}), "v.parquet")
    expected = [(one.label, one.confidence) for one in Classifier(model).classify_many(sequences)]
    for source in ("v", "v.npz", "v.parquet"):
        scored(model, f"out-{source}", source)
        assert expected == [(row["label"], row["confidence"]) for row in rows(here / f"out-{source}")]

"""Pickles of archives: arrays come out, code never runs."""

from __future__ import annotations

import io
import os
import pickle

import numpy as np
import pytest

from gcsearch.data.unpickling import load_arrays
from gcsearch.errors import DataError


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_arrays_of_every_old_protocol_come_out(protocol):
    content = {b"data": np.arange(12, dtype=np.uint8).reshape(3, 4), b"labels": [1, 2, 3], b"name": b"batch"}
    loaded = load_arrays(io.BytesIO(pickle.dumps(content, protocol)), "x")
    np.testing.assert_array_equal(loaded["data"], content[b"data"])
    assert loaded["labels"] == [1, 2, 3]


def test_pickle_of_python_2_and_old_numpy_comes_out():
    """Written by hand: texts of Python 2, and numpy's module under its old name."""
    data = (
        b"\x80\x02}q\x00U\x04dataq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b"
        b"\x87Rq\x04(K\x01K\x02K\x02\x86cnumpy\ndtype\nq\x05U\x02u1K\x00K\x01\x87Rq\x06(K\x03U\x01|NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x04\x01\x02\x03\xfftbs."
    )
    np.testing.assert_array_equal(load_arrays(io.BytesIO(data), "x")["data"], [[1, 2], [3, 255]])


class Command:
    """Runs a command when it is unpickled by anybody careless."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_pickle_that_runs_a_command_is_refused_and_nothing_runs(tmp_path, protocol):
    marker = tmp_path / "ran"
    data = pickle.dumps({b"data": np.zeros(3, np.uint8), b"more": Command(marker)}, protocol)
    with pytest.raises(DataError, match="must hold arrays only, but asks for") as caught:
        load_arrays(io.BytesIO(data), "data_batch_1")
    assert str(caught.value).startswith("data_batch_1: ")
    assert not marker.exists()
    pickle.loads(pickle.dumps(Command(marker)))
    assert marker.exists()  # the pickle was dangerous


@pytest.mark.parametrize(
    "name",
    ["builtins eval", "builtins getattr", "os system", "numpy load", "numpy.lib.npyio load", "copyreg _reconstructor"],
)
def test_anything_but_the_parts_of_arrays_is_refused(name):
    module, attribute = name.split()
    with pytest.raises(DataError, match=f"asks for {module}.{attribute}"):
        load_arrays(io.BytesIO(f"c{module}\n{attribute}\n.".encode()), "x")


def test_dotted_names_do_not_lead_out_of_numpy():
    data = b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93."
    with pytest.raises(DataError, match="asks for"):
        load_arrays(io.BytesIO(data), "x")


@pytest.mark.parametrize("data", [b"", b"no pickle", pickle.dumps({b"a": 1})[:-2], b"."])
def test_damaged_pickle_is_refused(data):
    with pytest.raises(DataError, match="x: must be a readable pickle"):
        load_arrays(io.BytesIO(data), "x")


def test_other_content_is_refused():
    with pytest.raises(DataError, match="must hold a dict of arrays, got list"):
        load_arrays(io.BytesIO(pickle.dumps([1])), "x")

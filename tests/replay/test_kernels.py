"""The compiled loops: folded windows (vectors T2) against the accumulator, priorities and weights (T4, T6), and when
numba is imported. The sum tree's loops are tested as a sum tree."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import veldt
from tests.oracles.returns import n_step_window
from veldt.replay.kernels import exponentiate, first_unfit, fold_n_step, label

GAMMA = 0.9
# T2 as a stream: r = 1..7; step 3 terminates, step 6 truncates. Row 4 and row 8 are the final observations, and
# their void rows hold rewards that must never be read.
REWARD = np.array([1, 2, 3, 4, 1e6, 5, 6, 7, 1e6, 1e6], np.float32)
DISCOUNT = np.array([1, 1, 1, 0, 1, 1, 1, 1, 1, 1], np.float32)
ENDS = np.array([0, 0, 0, 1, 0, 0, 0, 1, 0, 0], bool)
VALUES = np.array([0, 10, 20, 30, 1e6, 0, 50, 60, 70, 0], np.float32)  # of the observation of each row


@pytest.mark.parametrize(
    ("row", "k", "r", "g", "target"),
    [
        (0, 3, 5.23, 0.729, 27.10),
        (1, 3, 7.94, 0, 7.94),
        (2, 2, 6.6, 0, 6.6),
        (3, 1, 4, 0, 4),
        (5, 3, 16.07, 0.729, 67.10),
        (6, 2, 12.3, 0.81, 69.0),
        (7, 1, 7, 0.9, 70.0),
    ],
)
def test_a_folded_window_is_the_table_of_t2(row, k, r, g, target):
    rows = slice(row, row + 3)
    reward, factor, steps = fold_n_step(REWARD[rows, None], DISCOUNT[rows, None], ENDS[rows, None], GAMMA, np.inf)
    assert steps[0] == k
    assert reward[0] == pytest.approx(r, rel=1e-6)
    assert factor[0] == pytest.approx(g, rel=1e-6)
    assert reward[0] + factor[0] * VALUES[row + k] == pytest.approx(target, rel=1e-6)


def test_windows_side_by_side_are_the_same_as_windows_one_by_one():
    starts = [0, 1, 2, 3, 5, 6, 7]
    rows = np.arange(3)[:, None] + np.array(starts)
    together = fold_n_step(REWARD[rows], DISCOUNT[rows], ENDS[rows], GAMMA, np.inf)
    for place, start in enumerate(starts):
        alone = fold_n_step(*(a[start : start + 3, None] for a in (REWARD, DISCOUNT, ENDS)), GAMMA, np.inf)
        assert [float(part[place]) for part in together] == [float(part[0]) for part in alone]


def test_folding_says_float32_and_int64_for_every_n():
    for n in (1, 2, 10):
        zeros = np.zeros((n, 4), np.float32)
        assert [part.dtype for part in fold_n_step(zeros, zeros, zeros > 1, 0.99, np.inf)] == [
            np.float32,
            np.float32,
            np.int64,
        ]


def test_one_step_folding_does_not_hand_out_the_ring():
    reward = np.ones((1, 3), np.float32)
    folded, _, _ = fold_n_step(reward, np.ones_like(reward), np.zeros((1, 3), bool), 0.5, np.inf)
    assert not np.shares_memory(folded, reward)


@given(n=st.integers(1, 10), streams=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_folding_agrees_with_the_accumulator_of_the_paper(n, streams, seed):
    random = np.random.default_rng(seed)
    reward = random.normal(size=(n, streams)).astype(np.float32)
    discount = (random.random((n, streams)) > 0.2).astype(np.float32)
    ends = (discount == 0) | (random.random((n, streams)) < 0.2)
    reward[1:][np.logical_or.accumulate(ends[:-1])] = np.nan  # behind the end: never read
    total, factor, steps = fold_n_step(reward, discount, ends, 0.97, np.inf)
    for b in range(streams):
        slow = n_step_window(reward[:, b], discount[:, b], ends[:, b], 0.97, n)
        np.testing.assert_allclose((total[b], factor[b], steps[b]), slow, rtol=1e-5, atol=1e-5)


def test_rewards_are_clipped_before_they_are_summed_and_nan_stays_nan():
    reward = np.array([[5, np.nan], [-0.5, 0]], np.float32)
    total, _, _ = fold_n_step(reward, np.ones_like(reward), np.zeros((2, 2), bool), 0.5, 1.0)
    assert total[0] == 0.75
    assert np.isnan(total[1])
    assert np.isnan(fold_n_step(reward, np.ones_like(reward), np.zeros((2, 2), bool), 0.5, np.inf)[0][1])


def test_priorities_of_t4_have_alpha_applied_once_and_a_floor():
    keys = np.arange(4)
    slots, masses, largest = exponentiate(keys, keys, np.array([1, 2, 3, 4], np.float32), 0.6, 1e-6)
    assert slots.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(masses, [1, 1.51571657, 1.93318204, 2.29739671], rtol=1e-8)
    assert masses.dtype == np.float64
    assert largest == 4.0
    assert exponentiate(keys, keys[:1], np.zeros(1), 0.6, 1e-6)[1] == pytest.approx(1e-6**0.6)


def test_items_that_are_gone_get_no_mass_and_do_not_count_as_largest():
    key_at = np.array([-1, -1, 10, -1])  # slot 2 holds key 10; key 6 was there before, key 8 has left slot 0
    slots, masses, largest = exponentiate(key_at, np.array([6, 10, 8, 10]), np.array([9.0, 2.0, 7.0, 3.0]), 1.0, 1e-6)
    assert (slots.tolist(), masses.tolist(), largest) == ([2, 2], [2.0, 3.0], 3.0)


@pytest.mark.parametrize(("bad", "place"), [(np.nan, 1), (-1.0, 1), (np.inf, 1), (0.0, -1)])
def test_the_first_unfit_value_is_found(bad, place):
    for dtype in (np.float32, np.float64):
        assert first_unfit(np.array([1.0, bad, bad, 0.0], dtype)) == place


def weights(chance, items, beta):
    keys, found, largest = label(np.arange(100, 110), np.arange(len(chance)), chance, items, beta)
    assert keys.tolist() == list(range(100, 100 + len(chance)))
    np.testing.assert_allclose(found * largest, (items * chance) ** -beta, rtol=1e-6)
    return found


def test_importance_weights_of_t4_are_divided_by_the_largest_of_the_batch():
    chance = np.array([0.1482295, 0.22467391, 0.28655461, 0.34054197])
    np.testing.assert_allclose(weights(chance, 4, 0.4), [1, 0.84674531, 0.76822936, 0.71697762], rtol=1e-6)
    np.testing.assert_allclose(weights(chance[2:], 4, 0.4), [1, 0.9332859], rtol=1e-6)


def test_importance_weights_of_t6_correct_a_batch_of_sequences():
    chance = np.array([0.72682458, 0.22120832, 0.0519671])
    np.testing.assert_allclose(weights(chance, 3, 0.6), [0.20539001, 0.41933025, 1], rtol=1e-6)


def run(code, folder, **settings):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"PYTHONPATH": str(folder), **settings},
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_veldt_does_not_import_numba():
    code = "import sys, veldt, veldt.replay.table, veldt.replay.sum_tree; print('numba' in sys.modules)"
    assert run(code, Path(veldt.__file__).parents[1]).strip() == "False"


@pytest.mark.parametrize("cache", ["cache", "file/cache"], ids=["but in a cache folder", "nor anywhere else"])
def test_kernels_work_where_nothing_can_be_written_beside_them(tmp_path, cache):
    package = tmp_path / "read_only"
    package.mkdir()
    shutil.copy(Path(veldt.__file__).parent / "replay" / "kernels.py", package / "some_kernels.py")
    for file in (package / "__pycache__", tmp_path / "file"):
        file.write_text("where a folder would have to be: not even root can make one")
    code = "import numpy, some_kernels as kernels; print(kernels.first_unfit(numpy.array([1.0, -1.0])))"
    places = {"HOME": str(tmp_path / "file"), "XDG_CACHE_HOME": str(tmp_path / cache)}
    assert run(code, package, **places).strip() == "1"
    assert bool(list(tmp_path.rglob("*.nbi"))) == (cache == "cache")

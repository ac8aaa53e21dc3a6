"""The outlier filter: T7's numbers, statistics over all losses, warm-up and floor."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veldt.errors import ConfigError
from veldt.parts.outliers import Outliers

T7 = (1.0, 1.2, 0.8, 1.1, 0.9)


def after(losses, warm_up_losses=5, deviations=3.0):
    running = Outliers(deviations, warm_up_losses, least_deviation=1e-6).build()
    for loss in losses:
        assert not running.is_outlier(loss)
    return running


def test_mean_deviation_and_limit_are_those_of_t7():
    running = after(T7)
    assert (running.mean, running.deviation, running.limit) == pytest.approx((1.0, 0.14142136, 1.42426407))


@pytest.mark.parametrize(("loss", "outlier"), [(1.35, False), (1.5, True), (-1.5, True), (0.0, False), (1.45, True)])
def test_a_loss_is_judged_by_its_size_and_by_those_before_it(loss, outlier):
    # 1.45 lies below the limit of the sample deviation, 1.47434: the convention is the population's
    assert after(T7).is_outlier(loss) is outlier


def test_discarded_losses_count_so_the_filter_opens_when_losses_have_risen_for_good():
    running = after(T7)
    verdicts = [running.is_outlier(3.0) for _ in range(6)]
    assert verdicts[0] is True
    assert verdicts[-1] is False


def test_nothing_is_an_outlier_before_the_warm_up_is_over():
    running = after(T7, warm_up_losses=6)
    assert not running.is_outlier(1000.0)
    assert after(T7, warm_up_losses=5).is_outlier(1000.0)


def test_losses_that_are_all_alike_leave_room_of_the_least_deviation():
    running = Outliers(3.0, 5, least_deviation=0.1).build()
    for _ in range(10):
        running.is_outlier(1.0)
    assert running.limit == pytest.approx(1.3)


@settings(deadline=None, max_examples=60)
@given(losses=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30), kept=st.integers(0, 29))
def test_the_recursion_is_numpys_mean_and_std_of_the_sizes_also_through_a_checkpoint(losses, kept):
    one = Outliers(3.0, 5, least_deviation=1e-9).build()
    for number, loss in enumerate(losses):
        one.is_outlier(loss)
        if number == kept:
            other = Outliers(3.0, 5, least_deviation=1e-9).build()
            other.load_state_dict(one.state_dict())
            one = other
    sizes = np.abs(losses)
    assert one.mean == pytest.approx(sizes.mean(), abs=1e-9)
    assert one.deviation == pytest.approx(max(sizes.std(), 1e-9), rel=1e-6, abs=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Outliers(0.0, 1, 1.0), r"outlier_deviations must be > 0 \(or none: no filter\), got 0.0"),
        (lambda: Outliers(3.0, 0, 1.0), "outlier_warm_up_losses must be >= 1, got 0"),
        (lambda: Outliers(3.0, 1, 0.0), "deviation of an outlier filter must be > 0, got 0.0"),
    ],
)
def test_settings_refuse(make, message):
    with pytest.raises(ConfigError, match=message):
        make()

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.objectives.dino.schedule import DINOSchedule
from training.objectives.mae.schedule import MAESchedule
from training.schedule import cosine_schedule, scaled_learning_rate

VITL16_SHORT = DINOSchedule(lr=scaled_learning_rate(0.004, 2048, "sqrt_1024"))


@given(
    base=st.floats(0, 1),
    final=st.floats(0, 1),
    start=st.floats(0, 1),
    total=st.integers(1, 60),
    data=st.data(),
)
def test_cosine_schedule_equals_the_concatenated_arrays(
    base: float, final: float, start: float, total: int, data: st.DataObject
) -> None:
    warmup = data.draw(st.integers(0, total))
    iterations = np.arange(total - warmup)
    cosine = final + 0.5 * (base - final) * (1 + np.cos(np.pi * iterations / max(len(iterations), 1)))
    whole = np.concatenate([np.linspace(start, base, warmup), cosine, [final, final]])
    steps = np.arange(total + 2)
    np.testing.assert_allclose(
        cosine_schedule(steps, base, final, total, warmup, start), whole, rtol=1e-12, atol=1e-15
    )
    assert cosine_schedule(total - 1, base, final, total, warmup, start) == pytest.approx(whole[total - 1], rel=1e-12)


def test_dinov2_values_at_the_steps_its_own_code_gives() -> None:
    peak = 0.004 * 2**0.5
    assert VITL16_SHORT.at(0).lr == 0.0
    assert VITL16_SHORT.at(12_499).lr == pytest.approx(peak, rel=1e-12)
    assert VITL16_SHORT.at(12_500).lr == pytest.approx(peak, rel=1e-12)
    assert VITL16_SHORT.at(124_999).lr == pytest.approx(1.0000004e-6 + (peak - 0.004) * 1.2e-10, rel=1e-6)
    assert VITL16_SHORT.at(125_000).lr == 1e-6
    assert VITL16_SHORT.at(0).teacher_temp == 0.04
    assert VITL16_SHORT.at(37_499).teacher_temp == pytest.approx(0.07, rel=1e-12)
    assert VITL16_SHORT.at(100_000).teacher_temp == 0.07
    assert VITL16_SHORT.at(0).momentum == 0.992
    assert VITL16_SHORT.at(62_500).momentum == pytest.approx(0.996)
    assert VITL16_SHORT.at(125_000).weight_decay == 0.4


def test_last_layer_is_frozen_by_a_zero_rate() -> None:
    assert VITL16_SHORT.at(1_249).last_layer_lr == 0.0
    assert VITL16_SHORT.at(1_249).lr > 0.0
    assert VITL16_SHORT.at(1_250).last_layer_lr == VITL16_SHORT.at(1_250).lr


def test_an_array_of_steps_gives_the_same_values() -> None:
    steps = np.array([0, 7, 1_250, 30_000, 124_999])
    arrays = VITL16_SHORT.arrays(steps)
    for index, step in enumerate(steps):
        values = VITL16_SHORT.at(int(step))
        scheduled = {name: value for name, value in vars(values).items() if value is not None}  # Gram's are off
        assert {name: array[index] for name, array in arrays.items()} == scheduled


def test_mae_follows_the_fractional_epoch() -> None:
    epochs, warmup, per_epoch, peak = 800, 40, 312, scaled_learning_rate(1.5e-4, 4096, "linear_256")
    schedule = MAESchedule()
    assert peak == pytest.approx(schedule.lr)
    for step in (0, 1, 311, 12_479, 12_480, 100_001, 249_599):
        epoch = step / per_epoch
        wanted = peak * epoch / warmup
        if epoch >= warmup:
            wanted = peak * 0.5 * (1 + np.cos(np.pi * (epoch - warmup) / (epochs - warmup)))
        assert schedule.at(step).lr == pytest.approx(wanted, rel=1e-9, abs=1e-18)
        assert schedule.at(step).weight_decay == 0.05
    assert schedule.at(0).momentum is None and schedule.at(0).teacher_temp is None


def test_learning_rate_rules() -> None:
    assert scaled_learning_rate(0.004, 1024, "sqrt_1024") == 0.004
    assert scaled_learning_rate(0.1, 512, "linear_256") == 0.2
    assert scaled_learning_rate(0.1, 512, "none") == 0.1
    with pytest.raises(ValueError, match="sqrt_1024, linear_256, none"):
        scaled_learning_rate(0.1, 512, "cubic")

"""Parameter counts by formula against the models themselves, and the x axes."""

from dataclasses import replace

import pytest

from biovfm_hf.errors import UserError
from biovfm_hf.front_door import recipe_flops
from biovfm_hf.sizes import SIZES
from evaluation.analysis.scaling import model_size
from evaluation.analysis.scaling.tables import Point


def test_the_published_axis_is_the_papers_to_the_digit():
    found = [model_size.published_parameters(f"vit-{name}") / 1e6 for name in ("tiny", "small", "base", "large")]
    assert found == pytest.approx([31.200000, 47.401728, 111.655680, 329.239296], abs=1e-9)


def test_axes_read_either_count_or_the_named_size():
    points = [
        Point("BioVFM-D", 31.2, "t", 90),
        Point("BioVFM-D", 303.3, "t", 95),
        Point("x-mae", 1, "t", 9, size="vit-base"),
    ]
    encoder, label = model_size.axis_values(points, "encoder")
    assert encoder == pytest.approx([5.53, 303.35, 85.82], abs=0.01)
    assert "Encoder" in label
    assert model_size.axis_values(points, "published")[0] == pytest.approx([31.2, 329.24, 111.66], abs=0.01)
    assert model_size.axis_values(points, "given")[0] == [31.2, 303.3, 1]
    per_image, label = model_size.axis_values(points, "compute")
    assert per_image[1] > 50 * per_image[0] / 2
    assert "per image" in label


def test_compute_is_total_where_images_are_known():
    points = [Point("a-dino", 5.53, "t", 90, images=2.0), Point("a-dino", 85.8, "t", 90, images=4.0)]
    total, label = model_size.axis_values(points, "compute")
    assert total[0] == pytest.approx(recipe_flops("dino", "vit-tiny") * 2e6 / 1e18)
    assert "EFLOP" in label


def test_the_objective_of_a_point_goes_before_the_name_of_its_family():
    named, told = (Point("a-mae", 5.53, "t", 90, objective=objective) for objective in ("", "dino"))
    (by_name,), (by_objective,) = (model_size.axis_values([point], "compute")[0] for point in (named, told))
    assert by_name == pytest.approx(recipe_flops("mae", "vit-tiny") / 1e9)
    assert by_objective == pytest.approx(recipe_flops("dino", "vit-tiny") / 1e9)


def test_the_objective_with_the_longer_name_counts_if_it_contains_the_other(monkeypatch):
    monkeypatch.setattr(model_size, "counted_objectives", lambda: ["dino", "mae", "mae_lite"])
    assert [model_size.objective_of(family) for family in ("MAE_lite", "MAE")] == ["mae_lite", "mae"]
    with pytest.raises(UserError, match="dino or mae or mae_lite"):
        model_size.objective_of("mae_lite-or-dino")


def test_a_further_size_takes_no_point_of_a_nearer_one(monkeypatch):
    wide = SIZES["vit-base"]._replace(mlp_ratio=4.05)  # 85.82 and 86.53 million parameters
    monkeypatch.setattr(model_size, "SIZES", {"vit-base-wide": wide, **SIZES})
    monkeypatch.setitem(SIZES, "vit-base-wide", wide)
    for given, size in ((85.8, "vit-base"), (86.5, "vit-base-wide")):
        point = Point("a-mae", given, "t", 90)
        assert model_size.sizes_of(point, model_size.known_sizes())[0] == size
        (flops,), _ = model_size.axis_values([point], "compute")
        assert flops == pytest.approx(recipe_flops("mae", size) / 1e9)


def test_sizes_of_equal_parameters_and_other_compute_are_told_apart_by_their_name_alone(monkeypatch):
    monkeypatch.setitem(SIZES, "vit-small-fine", SIZES["vit-small"]._replace(patch_size=8))
    point = Point("a-dino", 21.67, "t", 90)
    with pytest.raises(UserError, match=r"21\.67 M .* fit vit-small and vit-small-fine .* add a column size"):
        model_size.axis_values([point], "compute")
    assert model_size.axis_values([point], "encoder")[0] == pytest.approx([21.67], abs=0.01)
    named = [replace(point, size=size) for size in ("vit-small", "vit-small-fine")]
    coarse, fine = model_size.axis_values(named, "compute")[0]
    assert fine > 4 * coarse


@pytest.mark.parametrize(
    ("point", "axis", "words"),
    [
        (Point("f-dino", 77, "t", 90), "encoder", "no named size"),
        (Point("f-dino", 77, "t", 90, size="vit-medium"), "encoder", "unknown size 'vit-medium'"),
        (Point("family", 5.53, "t", 90), "compute", "the objective is unknown for family"),
        (Point("dino-or-mae", 5.53, "t", 90), "compute", "the objective is unknown for family"),
        (Point("family", 5.53, "t", 90, objective="distill"), "compute", "no recipe of objective 'distill'"),
        (Point("family", 5.53, "t", 90), "width", "unknown axis"),
    ],
)
def test_what_cannot_be_placed_is_refused(point, axis, words):
    with pytest.raises(UserError, match=words):
        model_size.axis_values([point], axis)

"""No value of any key ends in a traceback: each is taken, or refused by one line before torch is imported."""

import typing
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biovfm_hf.architecture import Architecture
from biovfm_hf.errors import UserError
from training.config_file import load_config, shipped_configs, with_steps
from training.settings.config import TrainConfig
from training.settings.typed import flat, plain, to_yaml

RECIPES = ("mae_smoke", "dino_smoke", "distill_smoke")
_HUGE = 10**20
SCALARS: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    1000003,
    _HUGE,
    -_HUGE,
    10**400,
    0.0,
    -0.5,
    0.3,
    1.5,
    1e300,
    1e-300,
]
SCALARS += [float("nan"), float("inf"), -float("inf"), "", "abc", "1e400", "é☃\u202e", "\0", "a\nb", "/nope", b"x"]
WORDS = ["a", 1, None, "size", "init_from", "fields", "hidden_size", "global_size", "timm"]
odd = st.recursive(
    st.sampled_from(SCALARS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=2),
    max_leaves=6,
)


@cache
def keys(recipe: str) -> list[str]:
    """All keys of a recipe, its sections, and keys below keys."""
    own = list(flat(plain(load_config(recipe))))
    own += [name.rpartition(".")[0] for name in own if "." in name]
    own += [f"model.{item.name}" for item in fields(Architecture)]
    return sorted({*own, *(f"{name}.x" for name in own)})


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(RECIPES).flatmap(lambda name: st.tuples(st.just(name), st.sampled_from(keys(name)))), odd)
def test_an_odd_value_is_taken_or_refused_in_a_line(place: tuple[str, str], value: object) -> None:
    recipe, key = place
    with suppress(UserError):
        config = load_config(recipe, {key: value})
        to_yaml(with_steps(config, 100))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("augment.preset", [1], r"unknown augment\.preset \[1\]; there are: dinov2"),
        ("model.fields", [], r"model\.fields must be a section"),
        ("model.fields", {"num_hidden_layers": 0}, "num_hidden_layers is 0; it must be from 1 to 1000"),
        ("model.decoder_num_attention_heads", 0, "decoder_num_attention_heads is 0; it must be from 1 to 65536"),
        ("model.decoder_num_attention_heads", -1, "decoder_num_attention_heads is -1; it must be from 1"),
        ("model.decoder_hidden_size", 0, "decoder_hidden_size is 0; it must be from 1"),
        ("model.mlp_ratio", float("nan"), "mlp_ratio is nan; it must be finite"),
        ("model.num_channels", 1, "num_channels is 1; images are read with 3 channels"),
        ("model.hidden_act", "gelo", "hidden_act is 'gelo'; it must be one of gelu, "),
        (
            "model.position_embedding_type",
            "rope",
            "leaves patches out, which rotary positions .* cannot do; give model",
        ),
        ("model.family", "dinov3", "leaves patches out, which rotary positions"),
        ("augment.blur_kernel", 1001, r"augment\.blur_kernel is 1001; it must be from 1 to 999"),
        ("seed", _HUGE, "seed is 100000000000000000000; it must be from 0 to"),
        ("steps", _HUGE, "steps is 100000000000000000000; it must be at most 2147483647"),
        ("steps", 10**400, "it must be at most 2147483647"),
        ("epochs", 1e300, r"epochs is 1e\+300; it must be at most 2147483647"),
        ("epochs", 10**400, "it must be a number"),
        ("batch.size", _HUGE, r"batch\.size is 1000.*; it must be at most 2147483647"),
        ("data.workers", 9999999, r"data\.workers is 9999999; it must be from -1 to 1024"),
        ("data.weights", {"CT": -1.0}, r"data\.weights is {'CT': -1.0}; it must be at least 0"),
        ("augment.flip_by_modality", {"CT": [1, 2]}, "it must be from 0 to 1"),
        ("optim.freeze_last_layer_steps", 10**23, "give whole steps"),
        ("data.batch_size", 3, r"unknown config key data\.batch_size; did you mean batch\.size\?"),
        ("data.seed", 3, r"unknown config key data\.seed; did you mean seed\?"),
        ("method.mask_ratio", 1.5, r"unknown config key method\.mask_ratio; did you mean model\.mask_ratio\?"),
        ("steps.x", 1, r"unknown config key steps\.x; steps is one value and no section"),
    ],
)
def test_odd_values_say_what_is_wrong(key: str, value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config("mae_smoke", {key: value})


def test_fields_are_checked_alone_before_weights_give_the_others() -> None:
    for name in ("num_attention_heads", "decoder_num_attention_heads", "hidden_size"):
        for value in (0, "a"):
            with pytest.raises(UserError, match=name):
                load_config("mae_smoke", {"model.init_from": "a/b", f"model.{name}": value})


def test_a_blur_on_the_device_fits_into_the_crops() -> None:
    wide = {"augment.on_device": True, "augment.blur_kernel": 201}
    with pytest.raises(UserError, match="mirrors crops of 48 pixels at their edges; give at most 95"):
        load_config("dino_smoke", wide)
    load_config("dino_smoke", {**wide, "augment.blur_kernel": 95})


def test_each_number_of_the_configs_has_a_range() -> None:
    kinds = {type(load_config(name)) for name in shipped_configs()}
    assert [key for kind in kinds for key in _without_range(kind)] == []
    named = ("mask_ratio", "drop_path_rate")  # between 0 and 1 without an end
    numbers = [item for item in fields(Architecture) if _has_number(item.type)]
    assert [item.name for item in numbers if "range" not in item.metadata and item.name not in named] == []


def _without_range(kind: type[TrainConfig]) -> Iterator[str]:
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        limits, parts = getattr(hint, "__metadata__", ()), [hint, *typing.get_args(hint)]
        for nested in (part for part in parts if isinstance(part, type) and is_dataclass(part)):
            yield from _without_range(typing.cast(Any, nested))
        if typing.get_origin(hint) is not typing.ClassVar and _has_number(hint) and not limits:
            yield f"{kind.__name__}.{name}"


def _has_number(hint: Any) -> bool:
    return hint in (int, float) or any(map(_has_number, typing.get_args(hint)))

"""Configurations: typed, complete, strict, and readable back."""

import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import yaml

from biovfm_hf import BioVFMConfig
from biovfm_hf.errors import UserError
from biovfm_hf.ranges import Range
from training import config_file, objectives
from training.config_file import config_from_tree, load_config, overridden_config, parse_overrides, with_steps
from training.settings.architecture import biovfm_config
from training.settings.config import BatchConfig
from training.settings.typed import Steps, build, flat, plain, to_yaml

CONFIGS = sorted((Path(config_file.__file__).parent / "configs").glob("*.yaml"))
LAUNCH = sorted((Path(config_file.__file__).parent / "launch").glob("*.yaml"))


@dataclass(frozen=True)
class Inner:
    rate: float = 1.0
    pair: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Outer:
    count: int = 1
    share: int | float = 1
    name: str | None = None
    inner: Inner = Inner()
    words: list[str] = field(default_factory=list)
    table: dict[str, float] = field(default_factory=dict)


def test_types_are_converted_and_come_back() -> None:
    values = {"count": 3, "share": 0.5, "inner": {"rate": "1e-3", "pair": [1, 2]}, "words": "one", "table": {"a": 1}}
    built = build(Outer, values)
    assert built == Outer(3, 0.5, None, Inner(0.001, (1.0, 2.0)), ["one"], {"a": 1.0})
    assert build(Outer, plain(built)) == built
    assert isinstance(build(Outer, {"share": 1}).share, int)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"cuont": 1}, "unknown config key cuont; did you mean count?"),
        ({"inner": {"raet": 1}}, "unknown config key inner.raet; did you mean inner.rate?"),
        ({"count": 1.5}, "count is 1.5; it must be a whole number"),
        ({"count": True}, "count is True"),
        ({"inner": {"pair": [1]}}, r"inner.pair is \[1\]"),
        ({"inner": 3}, "inner must be a section"),
        ({"table": {"a": "x"}}, "table.a is 'x'; it must be a number"),
    ],
)
def test_wrong_values_are_named(values: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        build(Outer, values)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_load_and_read_back(path: Path, tmp_path: Path) -> None:
    config = load_config(path.stem)
    assert path.stem.startswith(f"{config.method}_")
    biovfm_config(config)
    (tmp_path / "resolved.yaml").write_text(to_yaml(config))
    assert load_config(tmp_path / "resolved.yaml", {}) == config


def test_a_config_with_its_overrides_is_a_config_file_of_its_own(tmp_path: Path) -> None:
    changed = {"model.init_from": "weights", "model.num_attention_heads": 4, "run.log-every": 7, "data.modality": []}
    (tmp_path / "whole.yaml").write_text(overridden_config("dino_smoke", changed))
    config = load_config(tmp_path / "whole.yaml")
    words = ["model.init_from=weights", "model.num_attention_heads=4", "run.log-every=7", "data.modality=[]"]
    assert config == load_config("dino_smoke", parse_overrides(words)) and config.run.log_every == 7
    assert "num_hidden_layers" not in config.model.fields  # of a model that begins afresh
    with pytest.raises(UserError, match="unknown config key runs"):
        overridden_config("dino_smoke", {"runs": 3})


def test_an_objective_whose_name_begins_with_anothers_keeps_its_configs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for method in ("mae", "mae_lite"):
        (tmp_path / f"{method}_smoke.yaml").write_text(f"method: {method}\n")
    monkeypatch.setattr(config_file, "_CONFIG_FOLDER", tmp_path)
    listed = [config_file.shipped_configs(method) for method in ("mae", "mae_lite", "")]
    assert listed == [["mae_smoke"], ["mae_lite_smoke"], ["mae_lite_smoke", "mae_smoke"]]


def test_there_is_a_config_for_every_size_of_both_papers_models() -> None:
    names = {path.stem for path in CONFIGS}
    sizes = ("tiny", "small", "base", "large", "huge")
    assert {f"{method}_vit_{size}" for method in ("dino", "mae") for size in sizes} < names
    assert {"dino_vit_giant", "dino_smoke", "mae_smoke"} < names


def test_defaults_are_the_published_recipes() -> None:
    dino = load_config("dino_vit_large", {})
    assert (dino.steps, dino.batch.size, dino.optim.base_lr, dino.optim.layerwise_decay) == (125_000, 2048, 0.004, 0.9)
    assert dino.step_count(dino.optim.warmup_steps) == 12_500
    assert dino.step_count(dino.teacher.temperature_warmup_steps) == 37_500
    assert dino.step_count(dino.optim.freeze_last_layer_steps) == 1_250
    assert dino.augment.blur_p == (0.0, 0.9, 0.5)
    huge = biovfm_config(load_config("dino_vit_huge", {}))
    assert (huge.patch_size, huge.ffn_type, huge.drop_path_rate, huge.use_mask_token) == (14, "swiglu", 0.4, True)
    mae = load_config("mae_vit_huge", {})
    assert (mae.optim.betas, mae.optim.clip_grad, mae.augment.global_scale) == ((0.9, 0.95), None, (0.2, 1.0))
    assert (biovfm_config(mae).patch_size, biovfm_config(mae).decoder_num_hidden_layers) == (14, 8)


def test_overrides_of_both_forms() -> None:
    words = ["steps=10", "--optim.base_lr", "1e-3", "--run.compile=true", "--data.modality", "[CT, MR]"]
    config = load_config("dino_smoke", parse_overrides(words))
    assert (config.steps, config.optim.base_lr, config.run.compile) == (10, 0.001, True)
    assert config.data.modality == ["CT", "MR"]


def test_only_keys_may_be_written_with_dashes_names_of_the_data_stay() -> None:
    words = ["--run.log-every", "3", "data.weight_by=modality", "--data.weights.X-Ray=2"]
    words += ["augment.flip_by_modality.X-Ray=[0, 0]"]
    config = load_config("dino_smoke", parse_overrides(words))
    assert (config.run.log_every, config.data.weights) == (3, {"X-Ray": 2.0})
    assert config.augment.flip_by_modality["X-Ray"] == (0.0, 0.0)


def test_a_name_given_beside_those_of_a_preset_leaves_them_be() -> None:
    preset = config_from_tree({"method": "dino", "augment": {"preset": "medical"}}).augment.flip_by_modality
    words = ["augment.preset=medical", "augment.flip_by_modality.X-Ray=[1, 0]"]
    given = load_config("dino_smoke", parse_overrides(words)).augment.flip_by_modality
    assert len(preset) > 2 and given == {**preset, "X-Ray": (1.0, 0.0)}
    words[1] = "augment.flip_by_modality={}"
    assert load_config("dino_smoke", parse_overrides(words)).augment.flip_by_modality == {}


def test_fields_of_the_model_take_numbers_that_yaml_reads_as_text() -> None:
    assert biovfm_config(load_config("dino_smoke", {"model.layerscale_value": 1})).layerscale_value == 1
    words = ["model.layerscale_value=1e-5", "model.hidden_act=gelu"]
    config = load_config("dino_smoke", parse_overrides(words))
    assert (biovfm_config(config).layerscale_value, biovfm_config(config).hidden_act) == (1e-5, "gelu")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["steps"], "cannot read 'steps'"),
        (["--steps"], "cannot read '--steps'"),
        (["run.compiel=true"], r"did you mean run\.compile\?"),
        (["dino.prototipes=5"], r"unknown config key dino\.prototipes; did you mean dino\.prototypes\?"),
        (["mask.x=5"], r"there are: mask\.\w+, mask\.\w+"),
        (["model.drop_pat_rate=0.1"], r"did you mean model\.drop_path_rate\?"),
        (["model.size=vit-larg"], "there is no size 'vit-larg'"),
        (["augment.preset=medica"], "did you mean medical"),
        (["optim=3"], "optim is a section"),
        (["batch.size=1"], "at least 2"),
        (["steps=0"], "at least 1"),
        (["optim.warmup_steps=300"], "longer than the run of 200 steps"),
        (["optim.warmup_steps=1.5"], "share of all steps"),
        (["run.precision=fp8"], "must be one of auto, bf16, fp32"),
        (["run.precision=fp16"], "must be one of auto, bf16, fp32"),
        (["batch.per_process=0"], "batch.per_process is 0; it must be at least 1"),
        (["optim.base_lr=-1"], "optim.base_lr is -1.0; it must be at least 0"),
        (["optim.base_lr=.nan"], "optim.base_lr is nan"),
        (["optim.base_lr=.inf"], "optim.base_lr is inf; it must be finite"),
        (["optim.betas=[0.9, 1.0]"], "optim.betas is .*; it must be from 0 to 0.99999"),
        (["model.drop_path_rate=1"], "drop_path_rate 1 must be at least 0 and below 1"),
        (["model.drop_path_rate=-0.5"], "drop_path_rate -0.5 must be at least 0 and below 1"),
        (["watch.task=somewhere"], "watch.every is 0, so it would never be probed"),
        (["teacher.momentum=2"], "it must be from 0 to 1"),
        (["mask.ratio=[0.5, 0.1]"], "the smaller number comes first"),
        (["mask.probability=1.5"], "mask.probability is 1.5; it must be from 0 to 1"),
        (["run.export_every=-1"], "run.export_every is -1; it must be at least 0"),
        (["data.weights={CT: 2}"], "without data.weight_by"),
        (["augment.global_count=1"], "takes 2 global crop"),
        (["model.num_attention_heads=7"], "hidden_size 192 is not a multiple of num_attention_heads 7"),
        (
            ["augment.global_size=100"],
            "image_size 100 is not a multiple .* .it follows augment.global_size",
        ),
    ],
)
def test_wrong_overrides_are_one_line(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        biovfm_config(load_config("dino_smoke", parse_overrides(words)))
    assert "\n" not in str(caught.value)


def test_mae_takes_one_crop_and_says_so() -> None:
    with pytest.raises(UserError, match=r"takes 1 global crop\(s\) of an image and no local ones"):
        load_config("mae_smoke", {"augment.preset": "medical"})
    crops = {"augment.global_count": 1, "augment.local_count": 0}
    assert load_config("mae_smoke", {"augment.preset": "medical", **crops}).augment.gamma == (0.7, 1.4)


def test_a_field_of_a_section_is_checked_however_it_is_made() -> None:
    config = config_from_tree({"method": "mae"})
    for change in ({"seed": -1}, {"optim": replace(config.optim, betas=(0.9, 1.0))}, {"batch": BatchConfig(size=0)}):
        with pytest.raises(UserError, match="it must be"):
            replace(config, **change)


@pytest.mark.parametrize(
    ("limit", "value", "fault"),
    [
        (Range(1), 1, None),
        (Range(1), 0, "it must be at least 1"),
        (Range(0, 1), (0.0, 1.5), "it must be from 0 to 1"),
        (Range(0, 1, ordered=True), (0.5, 0.1), "the smaller number comes first"),
        (Range(0), None, None),
        (Range(), math.nan, "it must be finite"),
        (Steps(), 3, None),
        (Steps(), 1.0, None),
        (Steps(), 1.5, "give whole steps, or a share"),
        (Steps(), -1, "give whole steps, or a share"),
    ],
)
def test_limits_say_what_a_number_must_be(limit: Range | Steps, value: object, fault: str | None) -> None:
    said = limit.fault(value)
    assert said is None if fault is None else (said or "").startswith(fault)


def test_a_recipe_that_continues_from_weights_does_not_begin_without_them() -> None:
    names = [path.stem for path in CONFIGS if "Start it with --model.init_from" in path.read_text(encoding="utf-8")]
    assert len(names) == 6
    for name in names:
        assert load_config(name).model.init_from is None, "a dry run needs no weights"
        with pytest.raises(UserError, match=f"{name} continues from weights; add model.init_from=FOLDER"):
            load_config(name, begins=True)
        assert load_config(name, {"model.init_from": "run"}, begins=True).model.init_from == "run"


def test_config_of_the_other_method_or_missing_file() -> None:
    with pytest.raises(UserError, match="is a config of the objective mae, not dino"):
        load_config("mae_smoke", {}, "dino")
    with pytest.raises(UserError, match="did you mean dino_smoke"):
        load_config("dino_smoek", {})


def test_a_run_of_an_earlier_version_loads_though_it_wrote_every_objectives_sections(tmp_path: Path) -> None:
    mae = load_config("mae_smoke")
    idle = {name: plain(objectives.config_of("dino")())[name] for name in ("dino", "teacher", "mask")}
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(mae) + yaml.safe_dump(idle))
    assert load_config(path) == mae
    path.write_text(to_yaml(mae) + yaml.safe_dump({"dino": {**idle["dino"], "prototypes": 77}}))
    with pytest.raises(UserError, match="unknown config key dino"):
        load_config(path)


@pytest.mark.parametrize("name", ["augment", "model", "optim", "batch"])
def test_a_word_in_the_place_of_a_section_is_named(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} must be a section of key: value lines, not 'mae'"):
        config_from_tree({"method": "mae", name: "mae"})


def test_epochs_become_steps() -> None:
    config = config_from_tree({"method": "mae", "epochs": 2, "batch": {"size": 10}})
    assert with_steps(config, 105).steps == 21


@pytest.mark.parametrize("path", LAUNCH, ids=lambda path: path.stem)
def test_launch_configs_are_accelerates(path: Path) -> None:
    from accelerate.commands.config.config_args import ClusterConfig

    loaded = ClusterConfig.from_yaml_file(yaml_file=str(path))
    assert loaded.num_processes == yaml.safe_load(path.read_text())["num_processes"]


def test_an_exported_configuration_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    from training.run.export import _public

    config = load_config("dino_smoke", {"data.path": str(tmp_path), "model.init_from": "biovfm/vit-tiny"})
    text = to_yaml(_public(config))
    assert str(tmp_path) not in text and tmp_path.name in text and "biovfm/vit-tiny" in text


def test_no_page_writes_a_key_and_its_value_with_a_space() -> None:
    """Without dashes that is refused; as `key=value` a reader can copy it."""
    keys = {key for name in objectives.names() for key in flat(plain(objectives.config_of(name)()))}
    keys |= {f"model.{name}" for name in BioVFMConfig().to_dict()}
    for page in [path for folder in ("", "docs/", "*/") for path in Path(__file__).parents[2].glob(f"{folder}*.md")]:
        first_words = re.findall(r"`([a-z_]+\.[a-z_]+) [^`]+`", page.read_text(encoding="utf-8"))
        assert not keys.intersection(first_words), page

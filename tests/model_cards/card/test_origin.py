"""What a model was made from: its base model, the licences of base and data, private tasks, and no machine's paths."""

import json
import shutil

import pytest
from huggingface_hub import ModelCard

from biovfm_hf.cards.origin import Origin, write_origin
from biovfm_hf.cards.provenance import Provenance, read_provenance, write_provenance
from biovfm_hf.errors import UserError
from model_cards.card.command import card
from model_cards.card.options import CardOptions
from model_cards.hub.card import check_pushed_card
from model_cards.inputs.paths import without_paths


@pytest.fixture
def model_dir(saved_model, tmp_path):
    return shutil.copytree(saved_model, tmp_path / "tiny-encoder")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def written(model_dir, **words):
    return card(CardOptions(model_dir, **words)).path.read_text()


def continued_from(model_dir, start):
    write_origin(model_dir, Origin(start))


def licences(data, **texts):
    build = json.loads((data / "build.json").read_text())
    (data / "build.json").write_text(json.dumps({**build, "licences": texts}))
    return data


def test_a_base_on_the_hub_is_named_in_yaml_and_in_a_sentence(model_dir):
    continued_from(model_dir, "facebook/dinov2-small")
    text = written(model_dir)
    data = ModelCard(text).data
    assert data.base_model == "facebook/dinov2-small" and data.license == "unknown"
    assert (
        "continued from the weights of [facebook/dinov2-small](https://huggingface.co/facebook/dinov2-small)" in text
    )
    assert "the licence of the base model facebook/dinov2-small is not known" in text


def test_the_licence_of_the_weights_it_goes_on_from_is_the_models_own(model_dir):
    write_provenance(model_dir, Provenance(licences=("dinov3-license",)))
    text = written(model_dir, license="mit")  # nobody can give it away under another
    data = ModelCard(text).data
    assert (data.license, data.license_name) == ("other", "dinov3-license")
    assert data.license_link.startswith("https://github.com/facebookresearch/dinov3")
    assert "it may be passed on only under it" in text
    assert read_provenance(model_dir).licences == ("dinov3-license",)
    check_pushed_card(text, model_dir, "model")
    with pytest.raises(UserError, match=r"weights under dinov3-license.*license_name"):
        check_pushed_card(text.replace("license_name: dinov3-license", "license_name: mine"), model_dir, "model")


@pytest.mark.parametrize("start", ["runs/of/mine", "/data/secret/run", "./run", "run"])
def test_a_base_in_a_folder_is_named_without_its_path(model_dir, start):
    continued_from(model_dir, start)
    made = card(CardOptions(model_dir))
    text = made.path.read_text()
    assert any(note.startswith("base_model is left out") and "--base-model" in note for note in made.notes)
    assert ModelCard(text).data.base_model is None
    assert (
        f"the weights of the model {start.split('/')[-1]};" in text and "secret" not in text and "runs/of" not in text
    )


def test_a_base_in_a_folder_gives_its_licence(model_dir, saved_model, dataset_dir, tmp_path):
    base = shutil.copytree(saved_model, tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    continued_from(model_dir, str(base))
    data = licences(
        shutil.copytree(dataset_dir, tmp_path / "data"), **dict.fromkeys(("chest-a", "oct-b", "us-c"), "CC BY-NC 4.0")
    )
    text = written(model_dir, dataset=data, base_model="you/base")
    assert (ModelCard(text).data.license, ModelCard(text).data.base_model) == ("cc-by-nc-4.0", "you/base")


def test_a_model_of_random_weights_says_so(model_dir, run_dir):
    assert "Training began with" not in written(model_dir, run=run_dir), "nothing states it"
    write_origin(model_dir, Origin())
    assert "Training began with random weights." in written(model_dir)


def test_start_teachers_and_anchor_are_all_named(model_dir):
    write_origin(model_dir, Origin("you/base", ("timm:hf-hub:you/large?depth=1", "rad-dino"), ("you/base",)))
    made = card(CardOptions(model_dir))
    text = made.path.read_text()
    assert ModelCard(text).data.base_model == ["you/base", "you/large"]
    for sentence in (
        "continued from the weights of [you/base](https://huggingface.co/you/base);",
        "distilled from [you/large](https://huggingface.co/you/large), kept frozen;",
        "distilled from the model rad-dino, kept frozen;",
        "held to those of [you/base](https://huggingface.co/you/base), kept frozen.",
        "Distilled from you/large and rad-dino.",
    ):
        assert sentence in text
    assert "random weights" not in text
    assert [note for note in made.notes if "base_model" in note] == [
        "base_model is left out for rad-dino, which is no name on the Hub; if the Hub has it: "
        "--base-model rad-dino=OWNER/NAME"
    ]
    named = written(model_dir, base_model=["rad-dino=microsoft/rad-dino", "my/base"])
    assert ModelCard(named).data.base_model == ["my/base", "you/large", "microsoft/rad-dino"]
    write_origin(model_dir, Origin(teachers=("large",)))
    text = written(model_dir)
    assert "Training began with random weights. It was distilled from the model large, kept frozen;" in text
    with pytest.raises(UserError, match=r"--base-model small: .* was not made from it; its base models are large$"):
        written(model_dir, base_model="small=you/small")


def test_each_student_of_a_run_has_its_own_origin(model_dir, saved_model, run_dir, tmp_path):
    """The run knows the folders, so that a folder's licence is read."""
    base = shutil.copytree(saved_model, tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    run = shutil.copytree(run_dir, tmp_path / "run")
    write_origin(run / "origins" / "model", Origin(str(base)))
    write_origin(run / "origins" / "model_small", Origin())
    write_origin(model_dir, Origin("base"))
    assert "the base model base is not known" in written(model_dir)
    text = written(model_dir, run=run)
    assert "the weights of the model base;" in text and "the base model base is not known" not in text
    write_origin(model_dir, Origin())
    text = written(model_dir, run=run)
    assert "Training began with random weights." in text and "continued from" not in text


def test_an_unknown_licence_is_stated_and_never_assumed(model_dir, dataset_dir):
    text = written(model_dir, dataset=dataset_dir)
    assert ModelCard(text).data.license == "unknown" and "the licence of the source us-c is not known" in text
    assert ModelCard(written(model_dir)).data.license == "unknown"


def test_several_licences_are_other(model_dir, dataset_dir, tmp_path):
    data = licences(
        shutil.copytree(dataset_dir, tmp_path / "data"), **{"chest-a": "MIT", "oct-b": "CC0", "us-c": "CC0"}
    )
    fields = ModelCard(written(model_dir, dataset=data)).data
    assert (fields.license, fields.license_name) == ("other", "see-training-data")


def test_a_stated_licence_stays_and_a_derived_one_is_derived_anew(model_dir, dataset_dir, tmp_path):
    assert ModelCard(written(model_dir)).data.license == "unknown"
    data = licences(
        shutil.copytree(dataset_dir, tmp_path / "data"), **dict.fromkeys(("chest-a", "oct-b", "us-c"), "CC0")
    )
    text = written(model_dir, dataset=data)
    assert ModelCard(text).data.license == "cc0-1.0" and "the only licence of" in text
    (model_dir / "README.md").write_text(text.replace("license: cc0-1.0", "license: mit"))
    text = written(model_dir)
    assert ModelCard(text).data.license == "mit" and "`mit`, as stated" in text
    assert ModelCard(written(model_dir)).data.license == "mit"


@pytest.fixture
def private_results(model_dir, make, tmp_path):
    """Figures of an own task and of a public one."""
    rows = make.rows("tiny-encoder", ["my_wards", "busi"])
    results = make.results(tmp_path / "results", rows, figure="pca_tiny-encoder_my-wards")
    for name in ("attention_tiny-encoder_my-wards", "pca_tiny-encoder_busi", "roc_my-wards_linear"):
        (results / "figures" / f"{name}.png").write_bytes(make.image(3, 40))
        (results / "figures" / f"{name}.txt").write_text(name)
    write_provenance(results, Provenance(private_tasks=("my_wards",)))
    return results


def test_test_images_of_private_tasks_are_shown_only_on_request(model_dir, private_results):
    done = card(CardOptions(model_dir, results=private_results))
    figures = sorted(file.name for file in (model_dir / "figures").iterdir())
    assert figures == ["pca_tiny-encoder_busi.png", "roc_my-wards_linear.png"]
    assert any("2 pictures" in note and "--private-images" in note for note in done.notes)
    assert not read_provenance(model_dir)
    done = card(CardOptions(model_dir, results=private_results, private_images=True))
    assert done.pictures == 4 and read_provenance(model_dir).private_tasks == ("my_wards",)
    card(CardOptions(model_dir, results=private_results))
    assert sorted(file.name for file in (model_dir / "figures").iterdir()) == figures and not read_provenance(
        model_dir
    )


def test_private_sources_of_data_and_training_stay_known(model_dir, dataset_dir, tmp_path):
    data = shutil.copytree(dataset_dir, tmp_path / "data")
    write_provenance(data, Provenance(("clinic-a",)))
    write_provenance(model_dir, Provenance(("clinic-b",)))
    card(CardOptions(model_dir, dataset=data))
    assert read_provenance(model_dir).private_sources == ("clinic-a", "clinic-b")


@pytest.mark.parametrize(
    ("value", "public"),
    [
        ("/home/a/data", "data"),
        ("~/data/x/", "x"),
        ("../data", "data"),
        ("C:\\scans\\mine", "mine"),
        ("clinic/2023/x", "x"),
        ("you/data", "you/data"),
        ("cosine", "cosine"),
        (3, 3),
        ({"a": ["/x/y", {"b": "./z"}]}, {"a": ["y", {"b": "z"}]}),
    ],
)
def test_paths_lose_their_folders(value, public):
    assert without_paths(value) == public


def test_a_path_that_is_there_is_no_name_of_the_hub(tmp_path, monkeypatch):
    (tmp_path / "you" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert without_paths("you/data") == "data"

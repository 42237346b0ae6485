"""`biovfm push` with the real client against a Hub over HTTP: what arrives, what a re-run sends, what faults lose."""

import time

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError

from biovfm_hf.errors import UserError
from model_cards import hub_files, push

from .conftest import BIOVFM


@pytest.fixture
def pushed(hub, monkeypatch, capsys, tmp_path):
    """Run `biovfm push` in this process against `hub`; returns what it printed."""
    from huggingface_hub import constants

    pause = time.sleep
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(time, "sleep", lambda seconds: pause(min(seconds, 0.02)))
    values = {
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
    }
    for name, value in values.items():
        monkeypatch.setattr(constants, name, value)

    def run(*words, token=hub.token):
        monkeypatch.setenv("HF_TOKEN", token or "")
        assert push.main([str(word) for word in words]) == 0
        return capsys.readouterr().out

    return run


DATASET_CARD = """---
license: other
configs:
- config_name: {name}
  data_files:
  - split: train
    path: {path}
---
"""


@pytest.fixture
def small_model(tmp_path):
    """A folder that looks like a model, without torch: weights above and below what goes to LFS."""
    import numpy as np
    from safetensors.numpy import save_file

    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "biovfm"}')
    save_file({"w": np.arange(500_000, dtype=np.float32)}, folder / "model.safetensors")
    (folder / "README.md").write_text(
        '---\nlicense: apache-2.0\n---\n# M\n\n```python\nmodel = AutoModel.from_pretrained("small")\n```\n'
    )
    (folder / "figures").mkdir()
    (folder / "figures" / "a b [1].txt").write_text("spaces and brackets")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "secret").write_text("stays here")
    return folder


def files_of(hub, name="owner/m", kind="model", branch="main"):
    repo = hub.repos[kind, name]
    return {path: blob.data for path, blob in repo.at(branch).files.items() if path != ".gitattributes"}


def test_first_push_is_private_one_commit_and_complete(hub, client, small_model):
    done = client(BIOVFM, "push", small_model, "owner/m")
    assert "4 files sent in 1 commits" in done.stdout and "4 files pulled back" in done.stdout
    held = files_of(hub)
    assert set(held) == {"README.md", "config.json", "model.safetensors", "figures/a b [1].txt"}
    assert all((small_model / path).read_bytes() == data for path, data in held.items())
    assert hub.repos["model", "owner/m"].private
    assert b'from_pretrained("owner/m")' in held["README.md"]
    assert hub.token not in done.stdout + done.stderr


def test_a_second_push_sends_only_what_changed(hub, pushed, small_model):
    pushed(small_model, "owner/m")
    commits = len(hub.repos["model", "owner/m"].commits)
    hub.requests.clear()
    assert "0 files sent in 0 commits, 4 were there" in pushed(small_model, "owner/m")
    assert not hub.sent("PUT") and not hub.sent("POST", "/commit/")
    (small_model / "config.json").write_text('{"model_type": "biovfm", "hidden_size": 8}')
    assert "1 files sent" in pushed(small_model, "owner/m")
    assert not hub.sent("PUT", "lfs-store") and len(hub.repos["model", "owner/m"].commits) == commits + 1


@pytest.mark.parametrize(
    "fault",
    [
        {"method": "POST", "path": "/commit/", "status": 503, "times": 2},
        {"method": "POST", "path": "/preupload/", "status": 429},
        {"method": "PUT", "path": "/lfs-store/", "status": 500},
        {"method": "PUT", "path": "/lfs-store/", "drop": True},
        {"method": "POST", "path": "/commit/", "drop": True},
        {"method": "GET", "path": "/tree/", "drop": True, "times": 2},
        {"method": "GET", "path": "/resolve/", "cut": True},
        {"method": "POST", "path": "/preupload/", "seconds": 2},
    ],
    ids=lambda fault: "-".join(str(part) for part in fault.values()),
)
def test_faults_lose_nothing(hub, pushed, small_model, fault):
    hub.fail(**fault)
    pushed(small_model, "owner/m")
    assert all(f.times == 0 for f in hub.faults)
    held = files_of(hub)
    assert len(held) == 4 and all((small_model / path).read_bytes() == data for path, data in held.items())


def test_an_interrupted_dataset_upload_resumes_and_the_card_comes_last(hub, pushed, tmp_path):
    folder = tmp_path / "data"
    (folder / "data").mkdir(parents=True)
    for number in range(230):
        (folder / "data" / f"s-{number:04d}.parquet").write_bytes(b"PAR1%d" % number)
    (folder / "README.md").write_text(DATASET_CARD.format(name="full", path="data/*.parquet"))
    hub.fail("POST", "/commit/", status=403, skip=1)
    with pytest.raises(UserError) as failed:
        pushed(folder, "owner/d")
    assert "may not write there" in str(failed.value)
    held = files_of(hub, "owner/d", "dataset")
    assert len(held) == 100 and "README.md" not in held
    hub.requests.clear()
    done = pushed(folder, "owner/d")
    assert "131 files sent in 2 commits, 100 were there" in done
    assert len(files_of(hub, "owner/d", "dataset")) == 231
    assert len(hub.sent("PUT", "lfs-store")) <= 130


def test_other_content_stops_and_is_deleted_or_kept_only_when_told(hub, pushed, small_model):
    pushed(small_model, "owner/m")
    (small_model / "figures" / "a b [1].txt").unlink()
    with pytest.raises(UserError) as stopped:
        pushed(small_model, "owner/m")
    assert "already holds 1 files" in str(stopped.value) and "--extra" in str(stopped.value)
    pushed(small_model, "owner/m", "--extra", "keep")
    assert len(files_of(hub)) == 4
    assert "1 deleted" in pushed(small_model, "owner/m", "--extra", "delete")
    assert len(files_of(hub)) == 3


def test_public_gated_branch_tag_and_collection(hub, pushed, small_model, tmp_path):
    words = ["--public", "--gated", "manual", "--revision", "step-10", "--tag", "v1", "--collection", "My models"]
    pushed(small_model, "owner/m", *words)
    pushed(small_model, "owner/m", *words)
    repo = hub.repos["model", "owner/m"]
    assert not repo.private and repo.gated == "manual"
    assert set(repo.at("main").files) == {".gitattributes"} and "model.safetensors" in repo.at("step-10").files
    assert repo.tags["v1"] == repo.branches["step-10"]
    (collection,) = hub.collections.values()
    assert [item["id"] for item in collection["items"]] == ["owner/m"]
    with pytest.raises(GatedRepoError):
        HfApi(token=hub.reader_token).hf_hub_download(
            "owner/m", "config.json", revision="v1", local_dir=tmp_path / "x"
        )
    (small_model / "config.json").write_text("{}")
    with pytest.raises(UserError, match="already names another commit"):
        pushed(small_model, "owner/m", "--revision", "step-10", "--tag", "v1")


@pytest.mark.parametrize(
    ("words", "token", "said"),
    [
        (["just-a-name"], "hf_testOwnerToken1234", "names no owner"),
        (["owner/bad name"], "hf_testOwnerToken1234", "write OWNER/NAME"),
        (["owner/m"], None, "hf auth login"),
        (["owner/m"], "hf_wrongToken000", "sign in with"),
        (["somebody/m"], "hf_testOwnerToken1234", "may not write there"),
    ],
)
def test_wrong_names_and_tokens_are_explained(pushed, small_model, words, token, said):
    with pytest.raises(UserError) as failed:
        pushed(small_model, *words, token=token)
    assert said in str(failed.value), str(failed.value)
    assert "\n" not in str(failed.value) and (not token or token not in str(failed.value))


def test_a_card_that_the_hub_refuses_is_explained(hub, pushed, small_model):
    text = (small_model / "README.md").read_text()
    (small_model / "README.md").write_text(text.replace("apache-2.0", "my-own"))
    with pytest.raises(UserError) as failed:
        pushed(small_model, "owner/m")
    assert "license" in str(failed.value)


def test_unfit_folders_are_refused_before_anything_is_sent(tmp_path, small_model, monkeypatch):
    options = push.PushOptions()
    with pytest.raises(UserError, match="neither a model"):
        push.push_folder(None, tmp_path, "o/m", options)
    monkeypatch.setattr(hub_files, "MAX_FILE_BYTES", 1000)
    with pytest.raises(UserError, match="in parts"):
        push.push_folder(None, small_model, "o/m", options)
    (small_model / "README.md").unlink()
    with pytest.raises(UserError, match="biovfm card"):
        push.push_folder(None, small_model, "o/m", options)


def test_a_configuration_without_files_is_not_pushed(make, tmp_path):
    data = make.dataset(tmp_path / "data")
    (data / "README.md").write_text(DATASET_CARD.format(name="us", path="data/us/*.parquet"))
    with pytest.raises(UserError, match="configuration 'us' names data/us"):
        push.push_folder(None, data, "o/d", push.PushOptions())


def test_hashes_are_gits_and_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"hello\n")
    assert hub_files.git_sha1_of(tmp_path / "x") == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert hub_files.sha256_of(tmp_path / "x").startswith("5891b5b522d5df086d0ff0b110fbd9d2")


def test_tokens_and_signatures_are_masked():
    text = push.mask_tokens("Bearer hf_abcdEFGH1234 https://x/?X-Amz-Signature=0a1b&token=zz&part=3 hf_secret99")
    assert "abcd" not in text and "0a1b" not in text and "zz" not in text and "secret99" not in text
    assert "part=3" in text


def test_usage_lines_name_the_repository():
    text = 'x from_pretrained("a")\n```python\nm = A.from_pretrained("a")\npipeline("t-x", model="a")\n```\n'
    named = push.name_repository(text, "o/m")
    assert named == text.replace('A.from_pretrained("a")', 'A.from_pretrained("o/m")').replace(
        'model="a"', 'model="o/m"'
    )

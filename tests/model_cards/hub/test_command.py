"""`biovfm push` with the real client against a Hub over HTTP: what arrives, what a re-run sends, what faults lose."""

import hashlib
import json
import signal
import subprocess
import sys
import time

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError

from biovfm_hf.cards.provenance import Provenance, write_provenance
from biovfm_hf.errors import UserError
from biovfm_hf.hub import calls as hub_calls
from biovfm_hf.hub import names as hub_names
from model_cards.hub import card as hub_card
from model_cards.hub import command as push
from model_cards.hub import files as hub_files

from ..conftest import BIOVFM


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
    assert "owner/m (private): 4 files sent in 1 commit, " in done.stdout and "4 files pulled back" in done.stdout
    assert 'next: AutoModel.from_pretrained("owner/m")' in done.stdout
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
    assert "1 file sent" in pushed(small_model, "owner/m")
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
        {"method": "POST", "path": "/repos/create", "cut": True},  # done there, but the answer is lost
        {"method": "POST", "path": "/commit/", "cut": True},
        {"method": "PUT", "path": "/lfs-store/", "cut": True},
    ],
    ids=lambda fault: "-".join(str(part) for part in fault.values()),
)
def test_faults_lose_nothing(hub, pushed, small_model, fault):
    hub.fail(**fault)
    pushed(small_model, "owner/m")
    assert all(f.times == 0 for f in hub.faults)
    held = files_of(hub)
    assert len(held) == 4 and all((small_model / path).read_bytes() == data for path, data in held.items())
    assert len(hub.repos["model", "owner/m"].commits) == 2  # the initial one and ours, whatever was tried again


def test_a_lost_answer_to_a_deletion_or_tag_is_no_failure(hub, pushed, small_model):
    pushed(small_model, "owner/m")
    (small_model / "figures" / "a b [1].txt").unlink()
    hub.fail("POST", "/commit/", cut=True)
    hub.fail("POST", "/tag/", cut=True)
    assert "1 deleted" in pushed(small_model, "owner/m", "--extra", "delete", "--tag", "v2")
    repo = hub.repos["model", "owner/m"]
    assert all(fault.times == 0 for fault in hub.faults) and repo.tags["v2"] == repo.branches["main"]
    assert len(repo.commits) == 3 and "figures/a b [1].txt" not in repo.at("main").files


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


def test_kills_lose_nothing_and_nothing_is_sent_twice(hub, hub_environment, pushed, tmp_path):
    """SIGKILL at three places; each run goes on where the one before was. In flight are at most four files a kill."""
    folder = tmp_path / "data"
    (folder / "data").mkdir(parents=True)
    for number in range(230):
        (folder / "data" / f"s-{number:04d}.parquet").write_bytes(b"PAR1%d" % number)
    (folder / "README.md").write_text(DATASET_CARD.format(name="full", path="data/*.parquet"))
    hub.fail("PUT", "/lfs-store/", seconds=0.01, times=10**6)
    command = [sys.executable, "-c", BIOVFM, "push", str(folder), "owner/d"]
    for enough in (40, 150, 210):
        process = subprocess.Popen(command, env=hub_environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 120
        while len(hub.sent("PUT", "lfs-store")) < enough and process.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        held = files_of(hub, "owner/d", "dataset") if hub.repos else {}
        assert "README.md" not in held and len(held) in (0, 100, 200)
    hub.faults.clear()
    pushed(folder, "owner/d")
    held = files_of(hub, "owner/d", "dataset")
    assert len(held) == 231 and all((folder / path).read_bytes() == data for path, data in held.items())
    assert 230 <= len(hub.sent("PUT", "lfs-store")) <= 230 + 3 * 4


def test_a_large_file_goes_in_parts_and_survives_faults_in_them(hub, pushed, small_model):
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"w": np.random.default_rng(0).random(3_000_000)}, small_model / "model.safetensors")
    hub.fail("PUT", "/lfs-store/.*/2", drop=True)
    hub.fail("PUT", "/lfs-store/.*/3", status=500)
    hub.fail("GET", "/resolve/.*safetensors", cut=True)
    pushed(small_model, "owner/m")
    assert all(fault.times == 0 for fault in hub.faults)
    assert files_of(hub)["model.safetensors"] == (small_model / "model.safetensors").read_bytes()
    assert {path.rsplit("/", 1)[1] for _, path, _ in hub.sent("PUT", "lfs-store")} == {"1", "2", "3", "4", "5"}


def test_a_connection_that_hangs_is_given_up_and_tried_again(hub, pushed, small_model, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 1)
    hub.fail("GET", "/resolve/", seconds=4)
    hub.fail("HEAD", "/resolve/", seconds=4)
    start = time.monotonic()
    assert "4 files pulled back" in pushed(small_model, "owner/m")
    assert all(fault.times == 0 for fault in hub.faults) and time.monotonic() - start < 60


def test_no_token_in_any_log_whatever_happens(hub, client, small_model, tmp_path):
    """All loggers at DEBUG, huggingface_hub in its debug mode, with faults, refusals and a traceback of everything."""
    loud = "import logging; logging.basicConfig(level=logging.DEBUG); " + BIOVFM
    hub.fail("POST", "/preupload/", status=500)
    hub.fail("PUT", "/lfs-store/", drop=True)
    said = [client(loud, "push", small_model, "owner/m", HF_DEBUG="1")]
    wrong = "hf_wrongTokenWRONGtoken0001"
    for repo, token in (("somebody/m", hub.token), ("owner/m", hub.reader_token), ("owner/x", wrong)):
        said.append(client(loud, "push", small_model, repo, check=False, HF_DEBUG="1", HF_TOKEN=token))
        assert said[-1].returncode == 1
    logs = "".join(done.stdout + done.stderr for done in said)
    assert "DEBUG" in logs and len(logs) > 5000  # there was something to search
    held = b"".join(data for data in files_of(hub).values())
    kept = b"".join(file.read_bytes() for file in (tmp_path / "hf").rglob("*") if file.is_file())
    for token in (hub.token, hub.reader_token, wrong):
        assert token not in logs and token.encode() not in held + kept


def test_other_content_stops_and_is_deleted_or_kept_only_by_an_option(hub, pushed, small_model):
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
        (["owner/m"], None, "hf auth login"),
        (["owner/m"], "hf_wrongToken000", "sign in with"),
        (["somebody/m"], "hf_testOwnerToken1234", "may not write there"),
    ],
)
def test_wrong_owners_and_tokens_are_explained(pushed, small_model, words, token, said):
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
    with pytest.raises(UserError, match="neither a model"):
        push.push(push.PushOptions(tmp_path, "o/m"))
    with monkeypatch.context() as patch, pytest.raises(UserError, match="in parts"):
        patch.setattr(hub_files, "MAX_FILE_BYTES", 1000)
        push.push(push.PushOptions(small_model, "o/m"))
    (small_model / "README.md").unlink()
    with pytest.raises(UserError, match="biovfm card"):
        push.push(push.PushOptions(small_model, "o/m"))


def test_a_configuration_without_files_is_not_pushed(make, tmp_path):
    data = make.dataset(tmp_path / "data")
    (data / "README.md").write_text(DATASET_CARD.format(name="us", path="data/us/*.parquet"))
    with pytest.raises(UserError, match="configuration 'us' names data/us"):
        push.push(push.PushOptions(data, "o/d"))


def test_hashes_are_gits_and_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"hello\n")
    assert hub_files.git_sha1_of(tmp_path / "x") == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert hub_files.sha256_of(tmp_path / "x").startswith("5891b5b522d5df086d0ff0b110fbd9d2")


def test_a_file_is_read_once_until_it_changes(tmp_path, monkeypatch):
    file = tmp_path / "x"
    file.write_bytes(b"one")
    first = hub_files.sha256_of(file)
    with monkeypatch.context() as patch:
        patch.setattr(hub_files.Path, "open", None)
        assert hub_files.sha256_of(file) == first
    file.write_bytes(b"other")
    assert hub_files.sha256_of(file) == hashlib.sha256(b"other").hexdigest()


def test_tokens_and_signatures_are_masked():
    text = hub_calls.mask_tokens("Bearer hf_abcdEFGH1234 https://x/?X-Amz-Signature=0a1b&token=zz&part=3 hf_secret99")
    assert "abcd" not in text and "0a1b" not in text and "zz" not in text and "secret99" not in text
    assert "part=3" in text


def test_usage_lines_name_the_repository():
    text = 'x from_pretrained("a")\n```python\nm = A.from_pretrained("a")\npipeline("t-x", model="a")\n```\n'
    named = hub_card.name_repository(text, "o/m")
    assert named == text.replace('A.from_pretrained("a")', 'A.from_pretrained("o/m")').replace(
        'model="a"', 'model="o/m"'
    )


@pytest.mark.parametrize("name", ["a b", "-v1", "v1..2", "x.lock", "a/.b", "v~1", "", "refs/pr/1", "0" * 40, "a\\b"])
@pytest.mark.parametrize("option", ["revision", "tag"])
def test_branches_and_tags_that_git_refuses_are_refused(option, name):
    with pytest.raises(UserError, match=option):
        push.PushOptions("folder", "owner/m", **{option: name})


@pytest.mark.parametrize(("name", "reason"), [("just-a-name", "no owner"), ("owner/bad name", "write OWNER/NAME")])
def test_wrong_names_are_wrong_arguments(capsys, name, reason):
    with pytest.raises(SystemExit) as ended:
        push.main(["folder", name])
    assert ended.value.code == 2 and reason in capsys.readouterr().err


@pytest.mark.parametrize("name", ["v1", "step-2000", "v1.0.2", "exp/dino_small", "résumé"])
def test_usual_branches_and_tags_are_taken(name):
    hub_names.check_ref("--tag", name)


def test_a_licence_that_the_hub_does_not_know_is_reported_before_anything_is_sent(hub, pushed, small_model):
    text = (small_model / "README.md").read_text().replace("apache-2.0", "my-own")
    (small_model / "README.md").write_text(text)
    with pytest.raises(UserError, match=r"does not accept its YAML block .*license.*must be one of"):
        pushed(small_model, "owner/m")
    assert not hub.repos and (small_model / "README.md").read_text() == text


def test_a_tag_of_another_commit_is_reported_before_anything_is_sent(hub, pushed, small_model):
    pushed(small_model, "owner/m", "--tag", "v1")
    (small_model / "config.json").write_text("{}")
    commits = len(hub.repos["model", "owner/m"].commits)
    hub.requests.clear()
    with pytest.raises(UserError, match="already names another commit"):
        pushed(small_model, "owner/m", "--tag", "v1")
    assert len(hub.repos["model", "owner/m"].commits) == commits and not hub.sent("POST", "/commit/")


def test_a_push_that_fails_leaves_the_card_as_it_was(hub, pushed, small_model):
    before = (small_model / "README.md").read_bytes()
    hub.fail("POST", "/commit/", status=403)
    with pytest.raises(UserError, match="may not write there"):
        pushed(small_model, "owner/m")
    assert (small_model / "README.md").read_bytes() == before
    pushed(small_model, "owner/m")
    assert (small_model / "README.md").read_bytes() == files_of(hub)["README.md"] != before


def test_wrong_folders_are_refused_by_kind(make, tmp_path):
    run = make.run(tmp_path / "run", steps=2)
    results = make.results(tmp_path / "results", make.rows("m", ["t"]))
    (run / "model").mkdir()
    (run / "model" / "config.json").write_text("{}")
    (run / "model" / "model.safetensors").write_bytes(b"")
    for folder, said in ((run, rf"push the model itself: .*{run.name}/model"), (results, "belong with their model")):
        with pytest.raises(UserError, match=said):
            push.push(push.PushOptions(folder, "o/m"))
    with pytest.raises(UserError, match="no such folder"):
        push.push(push.PushOptions(tmp_path / "nothere", "o/m"))


@pytest.mark.parametrize("kind", ["file outside", "folder outside", "folder inside", "itself", "hidden", "nothing"])
def test_links_are_refused_by_name(small_model, tmp_path, kind):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "patients.txt").write_text("names")
    targets = {
        "file outside": tmp_path / "secret" / "patients.txt",
        "folder outside": tmp_path / "secret",
        "folder inside": small_model / "figures",
        "itself": small_model,
        "hidden": small_model / ".cache" / "secret",
        "nothing": tmp_path / "gone",
    }
    (small_model / "figures" / "link").symlink_to(targets[kind])
    with pytest.raises(UserError, match=r"figures/link: is a link"):
        push.push(push.PushOptions(small_model, "o/m"))


def test_two_links_to_the_folder_itself_end_at_once(small_model):
    for name in ("a", "b"):
        (small_model / name).symlink_to(".", target_is_directory=True)
    with pytest.raises(UserError, match=r"small/a: is a link"):
        hub_files.local_files(small_model)


def test_a_linked_card_is_not_read(small_model, tmp_path):
    (small_model / "README.md").rename(tmp_path / "outside.md")
    (small_model / "README.md").symlink_to(tmp_path / "outside.md")
    with pytest.raises(UserError, match=r"README\.md: is a link"):
        push.push(push.PushOptions(small_model, "o/m"))


def test_a_link_to_a_file_that_is_sent_anyway_is_taken(hub, pushed, small_model):
    (small_model / "copy.json").symlink_to("config.json")
    pushed(small_model, "owner/m")
    assert files_of(hub)["copy.json"] == (small_model / "config.json").read_bytes()


@pytest.fixture
def private_model(small_model):
    write_provenance(small_model, Provenance(("clinic",), ("wards",)))
    return small_model


@pytest.mark.parametrize("words", [[], ["--public"]])
def test_private_sources_are_not_sent_without_a_question(hub, pushed, private_model, words):
    with pytest.raises(UserError, match=r"sources: clinic; tasks: wards.*--private-sources-ok"):
        pushed(private_model, "owner/m", *words)
    assert not hub.requests
    pushed(private_model, "owner/m", "--private-sources-ok", *words)
    assert json.loads(files_of(hub)["provenance.json"])["private_sources"] == ["clinic"]


@pytest.mark.parametrize(("answer", "sent"), [("y", True), ("", False), ("no", False)])
def test_a_terminal_is_asked(hub, pushed, private_model, monkeypatch, answer, sent):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: answer)
    if sent:
        pushed(private_model, "owner/m")
        assert hub.repos
        return
    with pytest.raises(UserError, match="not sent"):
        pushed(private_model, "owner/m")
    assert not hub.requests


def test_a_damaged_mark_stops_the_push(private_model):
    (private_model / "provenance.json").write_text("{")
    with pytest.raises(UserError, match=r"provenance\.json"):
        push.push(push.PushOptions(private_model, "o/m"))

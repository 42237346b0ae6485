"""The file with the objective's facts beside a model's weights."""

import json

import pytest

from biovfm_hf.cards.objective import OBJECTIVE, Logged, Objective, read_objective, write_objective
from biovfm_hf.errors import UserError


def test_what_is_written_is_read_back(tmp_path):
    assert read_objective(tmp_path) is None
    own = {"logged": {"pixel_mse": Logged("loss", "Of masked pixels.")}, "settings": {"msn.ratio": "Masked share"}}
    objective = Objective("Masked Siamese networks", "prototypes of views", "MSN (arXiv 2204.07141)", 1.5e9, **own)
    write_objective(tmp_path, objective)
    assert read_objective(tmp_path) == objective and objective.tag == "masked-siamese-networks"


@pytest.mark.parametrize(
    ("change", "message"),
    [({"title": 3}, "no title and summary"), ({"summary": ""}, "no title and summary"),
     ({"flops_per_image": -1}, "not a positive number"), ({"flops_per_image": "many"}, "not a positive number")],
)  # fmt: skip
def test_a_damaged_file_is_reported_in_one_line(tmp_path, change, message):
    facts = {"title": "MAE", "summary": "masked autoencoding", "source": "", "flops_per_image": 1.0}
    (tmp_path / OBJECTIVE).write_text(json.dumps(facts | change))
    with pytest.raises(UserError, match=f"objective.json: .*{message}"):
        read_objective(tmp_path)

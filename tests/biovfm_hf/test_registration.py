"""`import biovfm_hf` makes the Auto classes know BioVFM, whatever was imported before it, between and after."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.preloaded import with_torch

ROOT = Path(__file__).resolve().parents[2]
ORDERS = {
    "ours first": "import biovfm_hf; import transformers.models.auto.modeling_auto",
    "theirs first": "from transformers import AutoModel, AutoImageProcessor, AutoBackbone; import biovfm_hf",
    "half of theirs first": "from transformers import AutoConfig; import biovfm_hf; import transformers.models.auto",
    "our model first": "from biovfm_hf import BioVFMModel; from transformers import AutoModel",
    "our model's module first": "import biovfm_hf.modeling_biovfm; from transformers import AutoModel",
    "our processor first": "from biovfm_hf import BioVFMImageProcessor; from transformers import AutoConfig",
    "our configuration first": "from biovfm_hf.configuration_biovfm import BioVFMConfig; import transformers",
    "a pipeline first": "from transformers import pipeline; import biovfm_hf",
    "a look at theirs first": (
        "import biovfm_hf; from importlib.util import find_spec; find_spec('transformers.models.auto.modeling_auto')"
    ),
}

# One process loads what all orders share (no Auto class is among it), then forks once for each order.
FORKS = """
import json, os, sys
import accelerate, PIL.Image, scipy.optimize, tokenizers, torch, torch.distributed.tensor, torchvision.transforms.v2
import transformers.configuration_utils, transformers.image_transforms, transformers.masking_utils
assert not [name for name in sys.modules if name.startswith("transformers.models.auto.")]
def answers(order):
    exec(order, {})
    from transformers import AutoBackbone, AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification
    from transformers import AutoModelForPreTraining, AutoModelForSemanticSegmentation
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
    config = AutoConfig.for_model("biovfm")
    models = [AutoBackbone, AutoModel, AutoModelForImageClassification, AutoModelForPreTraining]
    models = [auto._model_mapping[type(config)] for auto in (*models, AutoModelForSemanticSegmentation)]
    processors = IMAGE_PROCESSOR_MAPPING[type(config)]
    classes = [type(config), *models, processors["pil"], processors["torchvision"]]
    return [f"{each.__module__}.{each.__name__}" for each in classes]
for name, order in json.loads(sys.argv[1]).items():
    if os.fork() == 0:
        print(json.dumps([name, answers(order)]), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def answers() -> Iterator[dict[str, list[str]]]:
    done = subprocess.run(
        [with_torch(), "-c", FORKS, json.dumps(ORDERS)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    yield {**dict(json.loads(line) for line in done.stdout.splitlines()), "stderr": done.stderr}


@pytest.mark.parametrize("order", ORDERS)
def test_importing_the_package_registers_it_in_any_order(answers, order) -> None:
    assert answers.get(order) == [
        "biovfm_hf.configuration_biovfm.BioVFMConfig",
        "biovfm_hf.modeling_biovfm.BioVFMBackbone",
        "biovfm_hf.modeling_biovfm.BioVFMModel",
        "biovfm_hf.modeling_biovfm.BioVFMForImageClassification",
        "biovfm_hf.modeling_biovfm.BioVFMForMaskedAutoencoding",
        "biovfm_hf.modeling_biovfm.BioVFMForSemanticSegmentation",
        "biovfm_hf.image_processing_biovfm.BioVFMImageProcessor",
        "biovfm_hf.image_processing_biovfm.BioVFMImageProcessor",
    ], answers["stderr"]


def test_importing_the_package_is_light() -> None:
    code = "import biovfm_hf, sys; print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

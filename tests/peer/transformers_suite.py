"""The BioVFM classes under transformers' common tests; run by run_transformers_suite.py inside its tests package."""

import copy
import unittest

import torch

import biovfm_hf
from biovfm_hf import BioVFMConfig, BioVFMModel

from ..test_backbone_common import BackboneTesterMixin
from ..test_configuration_common import ConfigTester
from ..test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor

# test_bc_torch_dtype writes every parameter into the message of its comparison, whole in half of its time
torch.set_printoptions(threshold=0, edgeitems=1)

BATCH, SIDE, PATCH, LABELS = 3, 32, 8, 4
PATCHES = (SIDE // PATCH) ** 2
FIELDS = {
    "image_size": SIDE,
    "patch_size": PATCH,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_labels": LABELS,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
}


class BioVFMTester:
    """What the common tests ask about the model under test."""

    def __init__(self, parent: unittest.TestCase, is_training: bool = True, **fields: object) -> None:
        self.parent = parent
        self.is_training = is_training
        self.fields = {**FIELDS, **fields}
        self.batch_size = BATCH
        self.num_hidden_layers = self.fields["num_hidden_layers"]
        self.num_attention_heads = self.fields["num_attention_heads"]
        self.hidden_size = self.fields["hidden_size"]
        self.num_labels = LABELS
        self.image_size = SIDE
        self.patch_size = PATCH
        self.num_masks = PATCHES // 2
        self.mask_length = PATCHES
        self.seq_length = 1 + PATCHES + int(self.fields.get("num_register_tokens", 0))

    def get_config(self) -> BioVFMConfig:
        return BioVFMConfig(**self.fields)

    def prepare_config_and_inputs(self) -> tuple:
        return self.get_config(), floats_tensor([BATCH, 3, SIDE, SIDE]), ids_tensor([BATCH], LABELS)

    def prepare_config_and_inputs_for_common(self) -> tuple:
        config, pixel_values, _ = self.prepare_config_and_inputs()
        return config, {"pixel_values": pixel_values}


class Common(ModelTesterMixin):
    test_resize_embeddings = False
    test_torch_exportable = True
    fields: dict = {}  # noqa: RUF012

    def setUp(self) -> None:
        # this test hands a mask to whatever takes one; elsewhere a mask token without gradient would be at fault
        masked = "eager_matches_sdpa" in self._testMethodName
        self.model_tester = BioVFMTester(self, **self.fields, use_mask_token=masked)
        self.config_tester = ConfigTester(self, config_class=BioVFMConfig, has_text_modality=False, hidden_size=48)

    def test_config(self) -> None:
        self.config_tester.run_common_tests()

    @unittest.skip("image patches are no token embeddings (nn.Embedding) to get or set")
    def test_model_get_set_embeddings(self) -> None: ...

    @unittest.skip("a vision model has no inputs_embeds")
    def test_inputs_embeds(self) -> None: ...


class BioVFMModelTest(Common, unittest.TestCase):
    all_model_classes = (
        biovfm_hf.BioVFMModel,
        biovfm_hf.BioVFMForImageClassification,
        biovfm_hf.BioVFMForSemanticSegmentation,
        biovfm_hf.BioVFMBackbone,
    )

    def _prepare_for_class(self, inputs_dict: dict, model_class: type, return_labels: bool = False) -> dict:
        inputs = copy.deepcopy(inputs_dict)
        if return_labels and model_class is biovfm_hf.BioVFMForImageClassification:
            inputs["labels"] = torch.zeros(BATCH, dtype=torch.long)
        if return_labels and model_class is biovfm_hf.BioVFMForSemanticSegmentation:
            inputs["labels"] = torch.zeros(BATCH, SIDE, SIDE, dtype=torch.long)
        return inputs

    def test_last_hidden_state_shape(self) -> None:
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        tokens = BioVFMModel(config)(**inputs).last_hidden_state
        self.assertEqual(tokens.shape, (BATCH, self.model_tester.seq_length, 32))


class BioVFMMaskedImageModelingTest(Common, unittest.TestCase):
    all_model_classes = (biovfm_hf.BioVFMForMaskedImageModeling,)

    def _prepare_for_class(self, inputs_dict: dict, model_class: type, return_labels: bool = False) -> dict:
        inputs = copy.deepcopy(inputs_dict)
        images = len(inputs["pixel_values"])
        inputs.setdefault("bool_masked_pos", torch.arange(images * PATCHES).view(images, PATCHES) % 2 == 0)
        return inputs


class BioVFMSwiGLURegistersTest(BioVFMModelTest):
    fields = {"ffn_type": "swiglu", "num_register_tokens": 2, "drop_path_rate": 0.1}  # noqa: RUF012


class BioVFMRotaryTest(BioVFMModelTest):
    fields = {  # noqa: RUF012
        "position_embedding_type": "rope",
        "initialization": "dinov3",
        "mask_key_bias": True,
        "num_register_tokens": 2,
        "untie_cls_and_patch_norms": True,
    }


class BioVFMUNetTest(Common, unittest.TestCase):
    all_model_classes = (biovfm_hf.BioVFMForSemanticSegmentation,)
    fields = {"segmentation_head": "unet", "num_hidden_layers": 4}  # noqa: RUF012

    @unittest.skip("the U-Net decoder reads four blocks")
    def test_num_layers_is_small(self) -> None: ...

    def _prepare_for_class(self, inputs_dict: dict, model_class: type, return_labels: bool = False) -> dict:
        inputs = copy.deepcopy(inputs_dict)
        if return_labels:
            inputs["labels"] = torch.zeros(BATCH, SIDE, SIDE, dtype=torch.long)
        return inputs


class BioVFMMaskedAutoencodingTest(Common, unittest.TestCase):
    all_model_classes = (biovfm_hf.BioVFMForMaskedAutoencoding,)
    fields = {"position_embedding_type": "sincos", "initialization": "mae", "layerscale_value": None}  # noqa: RUF012

    def setUp(self) -> None:
        super().setUp()
        self.model_tester.seq_length = 1 + PATCHES // 4  # the visible tokens

    def _prepare_for_class(self, inputs_dict: dict, model_class: type, return_labels: bool = False) -> dict:
        inputs = copy.deepcopy(inputs_dict)
        generator = torch.Generator().manual_seed(0)  # the same patches hidden in every call of a test
        inputs["noise"] = torch.rand(len(inputs["pixel_values"]), PATCHES, generator=generator)
        return inputs


class BioVFMBackboneTest(BackboneTesterMixin, unittest.TestCase):
    all_model_classes = (biovfm_hf.BioVFMBackbone,)
    config_class = BioVFMConfig
    has_attentions = True

    def setUp(self) -> None:
        self.model_tester = BioVFMTester(self)


del Common

"""The models on their own: sizes, packed crops, initialisation, heads, and the tools that people run them under."""

import copy
import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedImageModeling,
    AutoModelForPreTraining,
    AutoModelForSemanticSegmentation,
    Trainer,
    TrainingArguments,
)
from transformers.activations import ACT2FN

from biovfm_hf import (
    BioVFMBackbone,
    BioVFMConfig,
    BioVFMForImageClassification,
    BioVFMForMaskedAutoencoding,
    BioVFMForMaskedImageModeling,
    BioVFMForSemanticSegmentation,
    BioVFMModel,
)
from biovfm_hf.architecture import ACTIVATIONS
from biovfm_hf.modeling_biovfm import BioVFMUNetDecoder
from tests.preloaded import python

SMALL = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 3, "image_size": 32, "patch_size": 8}


def small(**fields: object) -> BioVFMConfig:
    return BioVFMConfig(**{**SMALL, **fields})


def visible(model: torch.nn.Module) -> torch.nn.Module:
    """LayerScale starts at 1e-5, which would hide every block's work from a comparison."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(1.0)
    return model


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("vit-tiny", 5.53),
        ("vit-small", 21.68),
        ("vit-base", 85.82),
        ("vit-large", 303.35),
        ("vit-huge", 631.23),
        ("vit-giant", 1134.77),
    ],
)
def test_named_sizes_have_the_published_parameter_counts(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = BioVFMModel(BioVFMConfig.from_size(name, use_mask_token=True))
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2) == millions


def test_the_activations_are_those_of_transformers() -> None:
    with torch.device("meta"):
        outputs = [ACT2FN[name](torch.ones(2)) for name in ACTIVATIONS]
    assert all(output.shape == (2,) for output in outputs)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"patch_size": 7}, "patch_size 7"),
        ({"num_attention_heads": 5}, "num_attention_heads 5"),
        ({"ffn_type": "moe"}, "mlp, swiglu"),
        ({"mask_ratio": 0.0}, "mask_ratio 0.0"),
        ({"decoder_hidden_size": 100}, "decoder_hidden_size 100"),
        ({"decoder_num_hidden_layers": 0}, "decoder_num_hidden_layers is 0"),
        ({"pooling": "max"}, "cls, mean, both"),
    ],
)
def test_impossible_configurations_are_refused(fields: dict, reason: str) -> None:
    with pytest.raises(Exception, match=reason):
        small(**fields)
    with pytest.raises(ValueError, match="vit-tiny, vit-small"):
        BioVFMConfig.from_size("vit-medium")


def test_images_that_do_not_fit_the_patches_are_refused() -> None:
    model = BioVFMModel(small())
    with pytest.raises(ValueError, match="33x32 pixels cannot be cut into patches of 8"):
        model(torch.zeros(1, 3, 33, 32))
    with pytest.raises(ValueError, match="1 channels; this model takes 3"):
        model(torch.zeros(1, 1, 32, 32))


@pytest.mark.parametrize("fields", [{}, {"ffn_type": "swiglu", "num_register_tokens": 2}, {"layerscale_value": None}])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_crops_equal_separate_runs(fields: dict, attention: str) -> None:
    config = small(use_mask_token=True, interpolate_offset=0.1, **fields)
    model = visible(BioVFMModel(config)).eval()
    model.set_attn_implementation(attention)
    crops = [torch.randn(4, 3, 32, 32), torch.randn(6, 3, 16, 16), torch.randn(1, 3, 24, 48)]
    masks = [torch.rand(4, 16) < 0.5, None, torch.rand(1, 18) < 0.5]
    packed = model.forward_packed(crops, masks)
    for crop, mask, tokens in zip(crops, masks, packed, strict=True):
        torch.testing.assert_close(tokens, model(crop, bool_masked_pos=mask).last_hidden_state, atol=1e-6, rtol=0)


def test_packed_gradients_equal_separate_gradients() -> None:
    model = visible(BioVFMModel(small())).train()
    crops = [torch.randn(4, 3, 32, 32), torch.randn(6, 3, 16, 16)]
    sum(tokens.square().sum() for tokens in model.forward_packed(crops)).backward()
    packed = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    sum(model(crop).last_hidden_state.square().sum() for crop in crops).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(packed[name], parameter.grad, atol=1e-4, rtol=1e-4, msg=name)


def test_stochastic_depth_drops_whole_images_and_keeps_the_expectation() -> None:
    torch.manual_seed(0)
    model = visible(BioVFMModel(small(num_hidden_layers=1, drop_path_rate=0.5))).train()
    image = torch.randn(1, 3, 32, 32).expand(8, -1, -1, -1)
    start = model.embeddings(image)
    layer = model.layers[0]
    full = layer.eval()(start) - start
    layer.train()
    added = layer(start) - start
    after_attention = torch.stack([(added[i] - added[j]).abs().max() for i in range(8) for j in range(i)])
    assert (after_attention < 1e-5).any() and (after_attention > 1e-3).any(), "images share one of four fates"
    untouched = (added.flatten(1).abs().max(dim=1).values == 0).sum()
    assert untouched <= 4
    mean = torch.stack([layer._add(layer._attention_branch, start, None) - start for _ in range(200)]).mean((0, 1))
    expected = (layer._attention_branch(start, None))[0]
    torch.testing.assert_close(mean, expected, atol=1e-4, rtol=1e-4)  # exactly half are kept, each doubled
    assert full.shape == added.shape


def test_stochastic_depth_in_packed_crops_keeps_images_apart() -> None:
    model = visible(BioVFMModel(small(drop_path_rate=0.4))).train()
    crops = [torch.randn(4, 3, 32, 32, requires_grad=True), torch.randn(6, 3, 16, 16)]
    first, _ = model.forward_packed(crops)
    first[0].sum().backward()
    assert crops[0].grad[0].abs().sum() > 0 and crops[0].grad[1:].abs().sum() == 0


@pytest.mark.parametrize("training", [False, True], ids=["eval", "stochastic depth"])
def test_wanted_rows_of_packed_crops_equal_those_of_all(training: bool) -> None:
    model = visible(BioVFMModel(small(num_register_tokens=2, drop_path_rate=0.4))).train(training)
    crops = [torch.randn(4, 3, 32, 32), torch.randn(6, 3, 16, 16)]
    wanted = [torch.tensor([0, 19, 20, 75, 38, 38]), torch.arange(6) * 7]
    found, gradients = [], []
    for rows in (wanted, None):
        torch.manual_seed(0)  # the same images are dropped
        tokens = model.forward_packed(crops, output_rows=rows)
        if rows is None:
            tokens = [part.flatten(0, 1)[chosen] for part, chosen in zip(tokens, wanted, strict=True)]
        found.append(tokens)
        gradients.append(torch.autograd.grad(sum(part.square().sum() for part in tokens), model.parameters()))
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=0)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_initialisation_is_dinov2s() -> None:
    model = BioVFMModel(small(num_register_tokens=2, use_mask_token=True, hidden_size=96))
    embeddings = model.embeddings
    assert 1e-8 < embeddings.cls_token.abs().max() < 1e-5 and embeddings.register_tokens.abs().max() < 1e-5
    assert embeddings.mask_token.abs().max() == 0
    assert 0.015 < embeddings.position_embeddings.std() < 0.025
    bound = (3 * 8 * 8) ** -0.5
    projection = embeddings.patch_embeddings.projection
    assert 0.9 * bound < projection.weight.abs().max() <= bound and projection.bias.abs().max() > 0
    layer = model.layers[0]
    assert 0.018 < layer.attention.qkv.weight.std() < 0.022 and layer.attention.qkv.bias.abs().max() == 0
    assert (layer.layer_scale1.gamma == 1e-5).all()


def test_initialisation_is_maes() -> None:
    torch.manual_seed(0)
    config = BioVFMConfig.from_size("vit-tiny", family="mae", num_hidden_layers=1, decoder_num_hidden_layers=1)
    model = BioVFMForMaskedAutoencoding(config)
    assert not hasattr(model.biovfm.layers[0].layer_scale1, "gamma")
    weight = model.biovfm.layers[0].mlp.fc1.weight  # Xavier uniform: bound sqrt(6 / (fan in + fan out))
    bound = (6 / sum(weight.shape)) ** 0.5
    assert 0.99 * bound < weight.abs().max() <= bound
    positions = model.biovfm.embeddings.position_embeddings
    assert not positions.requires_grad and positions[0, 0].abs().max() == 0 and positions[0, 1:].std() > 0.5
    assert len(torch.unique(positions[0, 1:], dim=0)) == 196
    assert not model.decoder.position_embeddings.requires_grad and model.decoder.position_embeddings.std() > 0.5
    for token in (model.biovfm.embeddings.cls_token, model.decoder.mask_token):
        assert 0.01 < token.std() < 0.03
    outputs = model(torch.randn(2, 3, 224, 224))
    assert outputs.logits[0].std(dim=0).mean() > 0, "predictions differ between the patches of an image"


def test_autoencoder_learns_and_masks_the_stated_share() -> None:
    torch.manual_seed(0)
    sizes = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 4}
    config = small(position_embedding_type="sincos", initialization="mae", layerscale_value=None, **sizes)
    model = BioVFMForMaskedAutoencoding(config)
    pixels = torch.randn(8, 3, 1, 1).expand(-1, -1, 32, 32) + torch.linspace(-1, 1, 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        outputs = model(pixels)
        outputs.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(outputs.loss.item())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert (outputs.mask.sum(dim=1) == 12).all()
    patches = model.patchify(pixels)
    torch.testing.assert_close(model.unpatchify(patches, (4, 4)), pixels.contiguous())
    changed = pixels.clone()
    hidden = outputs.mask[0].bool()
    replaced = torch.where(hidden[:, None], torch.zeros(()), patches[0])
    changed[0] = model.unpatchify(replaced[None], (4, 4))[0]
    noise = outputs.ids_restore.float() / 16
    with torch.no_grad():
        torch.testing.assert_close(model(changed, noise=noise).logits[0], model(pixels, noise=noise).logits[0])


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_the_loss_alone_is_that_of_the_whole_prediction(norm_pix_loss: bool) -> None:
    torch.manual_seed(0)
    sizes = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 4}
    config = small(num_register_tokens=2, norm_pix_loss=norm_pix_loss, mask_ratio=0.6, **sizes)
    model = visible(BioVFMForMaskedAutoencoding(config))
    pixels, noise = torch.randn(3, 3, 32, 32), torch.rand(3, 16)
    alone = model.reconstruction_loss(pixels, noise)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(alone, parameters, allow_unused=True)
    outputs = model(pixels, noise=noise)
    torch.testing.assert_close(alone, outputs.loss)
    target = model.patchify(pixels)
    if norm_pix_loss:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    errors = (outputs.logits - target).square().mean(-1)
    torch.testing.assert_close(outputs.loss, errors[outputs.mask.bool()].mean())
    for found, wanted in zip(gradients, torch.autograd.grad(outputs.loss, parameters, allow_unused=True), strict=True):
        torch.testing.assert_close(found, wanted)


def test_kept_patches_are_embedded_as_among_all() -> None:
    embeddings = BioVFMModel(small(use_mask_token=True, num_register_tokens=2)).embeddings
    torch.nn.init.normal_(embeddings.mask_token)
    pixels, keep, masked = torch.randn(3, 3, 32, 32), torch.rand(3, 16).argsort(1)[:, :5], torch.rand(3, 16) < 0.5
    whole = embeddings(pixels, masked)
    found = embeddings(pixels, masked, keep)
    torch.testing.assert_close(found[:, :3], whole[:, :3])
    torch.testing.assert_close(
        found[:, 3:], torch.stack([image[3:][ids] for image, ids in zip(whole, keep, strict=True)])
    )


@pytest.mark.parametrize("pooling", ["cls", "mean", "both"])
def test_classifier_pools_by_its_setting(pooling: str) -> None:
    model = BioVFMForImageClassification(small(pooling=pooling, num_labels=5, num_register_tokens=2)).eval()
    pixels = torch.randn(2, 3, 32, 32)
    tokens = model.biovfm(pixels).last_hidden_state
    pooled = {"cls": tokens[:, 0], "mean": tokens[:, 3:].mean(1)}
    pooled["both"] = torch.cat([pooled["cls"], pooled["mean"]], dim=1)
    outputs = model(pixels, labels=torch.tensor([0, 4]))
    torch.testing.assert_close(outputs.logits, model.classifier(pooled[pooling]))
    expected = torch.nn.functional.cross_entropy(outputs.logits, torch.tensor([0, 4]))
    torch.testing.assert_close(outputs.loss, expected)


def test_backbone_maps_any_layers() -> None:
    base = visible(BioVFMModel(small(num_register_tokens=2))).eval()
    backbone = BioVFMBackbone(small(num_register_tokens=2, out_indices=[1, 4])).eval()
    backbone.load_state_dict(base.state_dict())
    pixels = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        maps = backbone(pixels).feature_maps
        hidden = base(pixels, output_hidden_states=True).hidden_states
    assert [tuple(m.shape) for m in maps] == [(2, 48, 4, 6)] * 2 and backbone.channels == [48, 48]
    for feature_map, tokens in zip(maps, (hidden[1], hidden[4]), strict=True):
        torch.testing.assert_close(feature_map.flatten(2).transpose(1, 2), base.norm(tokens)[:, 3:])


@pytest.mark.parametrize("head", ["linear", "unet"])
def test_segmentation_learns_a_square(head: str) -> None:
    torch.manual_seed(0)
    model = visible(BioVFMForSemanticSegmentation(small(segmentation_head=head, num_labels=2)))
    pixels = torch.randn(4, 3, 32, 32) * 0.1
    labels = torch.zeros(4, 32, 32, dtype=torch.long)
    for index in range(4):
        row, column = divmod(index, 2)
        square = (slice(row * 16, row * 16 + 16), slice(column * 16, column * 16 + 16))
        pixels[index, :, *square] += 2
        labels[index, *square] = 1
    labels[:, :2] = 255  # ignored
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        outputs = model(pixels, labels=labels)
        outputs.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    kept = labels != 255
    assert outputs.logits.shape == (4, 2, 32, 32) and torch.isfinite(outputs.loss)
    assert (outputs.logits.argmax(1) == labels)[kept].float().mean() > 0.97


@pytest.mark.parametrize(
    ("size", "classes", "parameters"),
    [
        ("vit-small", 1, 2_425_225),
        ("vit-base", 1, 9_688_825),
        ("vit-large", 2, 17_229_014),
        ("vit-large", 16, 17_369_840),
    ],
)
def test_unet_decoder_has_the_papers_size(size: str, classes: int, parameters: int) -> None:
    """The radiology study's U-Net decoder on ViT-L has 17 M parameters (arXiv 2312.02366, Table 6)."""
    config = BioVFMConfig.from_size(size, segmentation_head="unet", num_labels=classes)
    with torch.device("meta"):
        decoder = BioVFMUNetDecoder(config)
    assert sum(parameter.numel() for parameter in decoder.parameters()) == parameters


CLASSES = {
    AutoModel: BioVFMModel,
    AutoBackbone: BioVFMBackbone,
    AutoModelForImageClassification: BioVFMForImageClassification,
    AutoModelForMaskedImageModeling: BioVFMForMaskedImageModeling,
    AutoModelForPreTraining: BioVFMForMaskedAutoencoding,
    AutoModelForSemanticSegmentation: BioVFMForSemanticSegmentation,
}


@pytest.mark.parametrize("auto", CLASSES, ids=lambda auto: auto.__name__)
def test_every_auto_class_saves_and_loads(auto: type, tmp_path: Path) -> None:
    model = CLASSES[auto](small()).eval()
    model.save_pretrained(tmp_path)
    # AutoBackbone itself asks the Hub for a local path (transformers 5.23), so a folder goes through the class
    again = (BioVFMBackbone if auto is AutoBackbone else auto).from_pretrained(tmp_path)
    assert type(again) is CLASSES[auto]
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, atol=0, rtol=0, msg=name)
    assert AutoConfig.from_pretrained(tmp_path).to_dict() == again.config.to_dict()


def test_remote_code_loads_in_a_process_without_the_package(tmp_path: Path) -> None:
    model = visible(BioVFMModel(small())).eval()
    model.save_pretrained(tmp_path / "model")
    with torch.no_grad():
        expected = model(torch.ones(1, 3, 32, 32)).pooler_output[0, :4].tolist()
    script = (
        "import sys, json, torch; from transformers import AutoModel, AutoModelForImageClassification;"
        f"folder = {str(tmp_path / 'model')!r};"
        "model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval();"
        "head = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True);"
        "values = model(torch.ones(1, 3, 32, 32)).pooler_output[0, :4].tolist();"
        "print(json.dumps([values, type(head).__name__, 'biovfm_hf' in sys.modules]))"
    )
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": ""}
    done = subprocess.run(
        [python(environment), "-c", script], capture_output=True, text=True, check=True, env=environment, cwd=tmp_path
    )
    values, head, imported = json.loads(done.stdout.strip().splitlines()[-1])
    torch.testing.assert_close(values, expected, atol=1e-6, rtol=0)
    assert head == "BioVFMForImageClassification" and not imported


def test_two_folders_of_one_name_run_each_its_own_code(tmp_path: Path) -> None:
    folders = [tmp_path / run / "model" for run in ("first", "second")]
    for folder in folders:
        model = BioVFMModel(small(num_hidden_layers=1))
        model.save_pretrained(folder)
        code = folder / "modeling_biovfm.py"  # as if another version had written it
        code.write_text(f"{code.read_text()}\nRUN = {folder.parent.name!r}\n")
        model.config.save_pretrained(folder)
    script = (
        "import sys; from transformers import AutoModel\n"
        "for folder in sys.argv[1:]:\n"
        "    model = AutoModel.from_pretrained(folder, trust_remote_code=True)\n"
        "    print(sys.modules[type(model).__module__].RUN)\n"
    )
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": ""}
    done = subprocess.run(
        [python(environment), "-c", script, *map(str, folders)],
        capture_output=True, text=True, check=True, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout.split() == ["first", "second"]


class Squares(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> dict:
        label = index % 2
        image = torch.zeros(3, 32, 32)
        image[:, : 16 + 16 * label] = 1.0
        return {"pixel_values": image, "labels": label}


def test_trainer_with_gradient_checkpointing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = visible(BioVFMForImageClassification(small(num_labels=2)))
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=30,
        per_device_train_batch_size=16,
        learning_rate=3e-3,
        gradient_checkpointing=True,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_steps=10,
        save_strategy="no",
        seed=0,
    )
    trainer = Trainer(model, arguments, train_dataset=Squares(), eval_dataset=Squares())
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.2


def test_gradient_checkpointing_changes_no_gradient() -> None:
    torch.manual_seed(0)
    plain = visible(BioVFMModel(small())).train()
    checkpointed = copy.deepcopy(plain)
    checkpointed.gradient_checkpointing_enable()
    crops = [torch.randn(2, 3, 32, 32), torch.randn(3, 3, 16, 16)]
    for model in (plain, checkpointed):
        sum(tokens.square().sum() for tokens in model.forward_packed(crops)).backward()
    for (name, expected), found in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, msg=name)


def test_torch_compile_without_graph_breaks() -> None:
    model = visible(BioVFMModel(small(num_hidden_layers=2))).eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(pixels).last_hidden_state
        torch.testing.assert_close(compiled(pixels).last_hidden_state, expected, atol=1e-5, rtol=1e-5)


def test_lora_trains_saves_and_merges(tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    torch.manual_seed(0)
    base = visible(BioVFMForImageClassification(small(num_labels=2))).eval()
    base.save_pretrained(tmp_path / "base")
    lora = LoraConfig(r=4, target_modules=["qkv", "fc1", "fc2"], modules_to_save=["classifier"])
    model = get_peft_model(copy.deepcopy(base), lora)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    pixels = torch.randn(4, 3, 32, 32)
    for _ in range(3):
        model(pixels, labels=torch.tensor([0, 1, 0, 1])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval().save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(
        BioVFMForImageClassification.from_pretrained(tmp_path / "base"), tmp_path / "adapter"
    )
    with torch.no_grad():
        expected = model(pixels).logits
        assert (expected - base(pixels).logits).abs().max() > 1e-3
        torch.testing.assert_close(again.eval()(pixels).logits, expected)
        torch.testing.assert_close(model.merge_and_unload()(pixels).logits, expected, atol=1e-5, rtol=1e-4)


def test_fixed_positions_stay_fixed_after_loading(tmp_path: Path) -> None:
    config = small(position_embedding_type="sincos", initialization="mae", layerscale_value=None)
    model = BioVFMForMaskedAutoencoding(config)
    model.save_pretrained(tmp_path)
    loaded = BioVFMForMaskedAutoencoding.from_pretrained(tmp_path)
    before = {name: tensor.clone() for name, tensor in loaded.state_dict().items() if "position" in name}
    torch.testing.assert_close(
        before["biovfm.embeddings.position_embeddings"], model.biovfm.embeddings.position_embeddings
    )
    loaded(torch.randn(2, 3, 32, 32)).loss.backward()
    torch.optim.SGD(loaded.parameters(), lr=1.0).step()
    assert len(before) == 2 and all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in before.items())


def test_trainer_accumulation_gives_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    norms = {}
    for size, accumulation in ((4, 1), (1, 4)):
        torch.manual_seed(0)
        model = visible(BioVFMForImageClassification(small(num_labels=2, problem_type="regression")))
        steps = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation, "max_steps": 1}
        arguments = TrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="no",
            max_grad_norm=1e9, logging_steps=1, seed=0, **steps,
        )  # fmt: skip
        data = [{"pixel_values": image, "labels": torch.ones(2)} for image in torch.randn(4, 3, 32, 32)]
        trainer = Trainer(model, arguments, train_dataset=data)
        trainer.train()
        norms[accumulation] = trainer.state.log_history[0]["grad_norm"]
    assert norms[4] == pytest.approx(norms[1], rel=1e-3)


def test_heads_work_where_the_configuration_asks_for_tuples() -> None:
    model = BioVFMForImageClassification(small(num_labels=2, return_dict=False))
    assert model(torch.randn(1, 3, 32, 32))[0].shape == (1, 2)


def test_layerscale_may_start_at_a_whole_number() -> None:
    model = BioVFMModel(small(layerscale_value=1))
    assert model.layers[0].layer_scale1.gamma.dtype == torch.float32

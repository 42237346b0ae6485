"""Short names of encoders (the papers' line-up and further models): what each one loads and how it is read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ShortName:
    """What a short name loads.

    Attributes:
        source: name for `load.load_encoder`.
        parameters: millions of parameters of the vision encoder.
        width: width of its tokens, or of its vector for an image.
        gflops: of one image forward, as `torch.utils.flop_counter` counts matrix products (two for a multiply-add);
            None if it was not counted.
        size: input size in pixels.
        licence: licence of the weights.
        paper: arXiv number.
        feature: description of the features that are read.
        features: the vector that its card recommends, one of the choices of `--features`.
        reading: fields of `tokens.Reading` for reading it as its authors do.
        access: what to do before the weights can be downloaded; empty if they are open.
        binding: licences (`biovfm_hf.cards.provenance.WEIGHT_LICENCES`) that bind what is made from the weights, where
            the family does not state them.
    """

    source: str
    parameters: float
    width: int
    gflops: float | None
    size: int
    licence: str
    paper: str
    feature: str = "tokens"
    features: str = "both"
    reading: Mapping[str, Any] = field(default_factory=dict)
    access: str = ""
    binding: tuple[str, ...] = ()


_MAP = {"features": "mean"}
_IMAGENET: dict[str, Any] = {"size": 224, "licence": "BSD-3-Clause", "feature": "map before the classifier", **_MAP}
_SAM: dict[str, Any] = {
    "size": 1024, "licence": "Apache-2.0", "paper": "2304.02643", "feature": "map before the neck", **_MAP,
    "reading": {"before_neck": True},
}  # fmt: skip
_VGG: dict[str, Any] = {
    "feature": "second hidden layer of the classifier (4,096)", "features": "pooled", "reading": {"by_pooled": True},
}  # fmt: skip
# (millions of parameters, width, GFLOP at 224 pixels) of the vision transformers, by size and patch size
_SMALL_16, _SMALL_14 = (21.7, 384, 9.2), (22, 384, 12.3)
_BASE_16, _BASE_14 = (86, 768, 35.1), (87, 768, 46.3)
_LARGE_16, _LARGE_14 = (303, 1024, 123.1), (304, 1024, 162.0)
_HUGE_14, _GIANT_14 = (631, 1280, 334.6), (1136, 1536, 598.8)
# timm keywords from the models' cards; without Virchow's two, timm builds a different network of 771 million weights.
_PACKED = "mlp_layer=SwiGLUPacked&act_layer=SiLU"
_UNI2 = (
    "img_size=224&patch_size=14&depth=24&num_heads=24&init_values=1e-5&embed_dim=1536&mlp_ratio=5.33334"
    f"&no_embed_class=true&reg_tokens=8&dynamic_img_size=true&{_PACKED}"
)
_XRV: dict[str, Any] = {"feature": "map before the classifier, its mean", **_MAP}


def _named(
    form: tuple[float, int, float | None], source: str, licence: str, paper: str, size: int = 224, **more: Any
) -> ShortName:
    return ShortName(source, *form, size, licence, paper, **more)


def _gated(repository: str, more: str = "") -> str:
    return f"accept its terms at https://huggingface.co/{repository}, then run: hf auth login{more}"


def _dinov3(form: tuple[float, int, float | None], name: str, of_timm: str) -> ShortName:
    repository = f"facebook/dinov3-{name}-pretrain-lvd1689m"
    open_copy = f"; timm:{of_timm}_dinov3.lvd1689m has the same weights under the same licence, without that step"
    access = _gated(repository, open_copy)
    return _named(form, repository, "DINOv3 licence", "2508.10104", access=access, binding=("dinov3-license",))


def _pathology(
    form: tuple[float, int, float | None], repository: str, keywords: str, licence: str, paper: str, **more: Any
) -> ShortName:
    return _named(form, f"timm:hf-hub:{repository}?{keywords}", licence, paper, access=_gated(repository), **more)


def _curia(repository: str, paper: str) -> ShortName:
    code = "; its image processor is code of its own: read it and give --trust-remote-code COMMIT"
    return _named(
        (86, 768, None), repository, "RAIL-M, research only", paper, 512,
        feature="class token of one grey slice", features="class", access=_gated(repository, code),
    )  # fmt: skip


# IN21K ViTs were pretrained on ImageNet-21k and then fine-tuned on ImageNet-1k. These are the first version of the
# weights, which the BioVFM code loads. Today's timm lacks that ViT-L; the one on the Hub is taken to be the same.
LINEUP = {
    "in21k-vit-b": _named(_BASE_16, "timm:vit_base_patch16_224.orig_in21k_ft_in1k", "Apache-2.0", "2010.11929"),
    "in21k-vit-l": _named((304, 1024, 123.1), "google/vit-large-patch16-224", "Apache-2.0", "2010.11929"),
    "rad-dino": _named((87, 768, 303.2), "microsoft/rad-dino", "MIT", "2401.10815", 518, features="class"),
    "biomedclip": _named(
        _BASE_16, "open_clip:hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224", "MIT", "2303.00915"
    ),
    "biomedgpt": ShortName(
        *("ofa:PanaceaAI/BiomedGPT-Base-Pretrained", 74, 768, 98.9, 384),
        "Apache-2.0 on the Hub, academic research only by its README",
        "2305.17100",
        "image tokens, no text prompt",
        "mean",
    ),
    "dinov2-s": _named(_SMALL_14, "facebook/dinov2-small", "Apache-2.0", "2304.07193"),
    "dinov2-b": _named(_BASE_14, "facebook/dinov2-base", "Apache-2.0", "2304.07193"),
    "dinov2-l": _named(_LARGE_14, "facebook/dinov2-large", "Apache-2.0", "2304.07193"),
    "dinov2-g": _named(_GIANT_14, "facebook/dinov2-giant", "Apache-2.0", "2304.07193"),
    "mae-b": _named(_BASE_16, "facebook/vit-mae-base", "Apache-2.0", "2111.06377"),
    "mae-l": _named(_LARGE_16, "facebook/vit-mae-large", "Apache-2.0", "2111.06377"),
    "mae-h": _named(_HUGE_14, "facebook/vit-mae-huge", "Apache-2.0", "2111.06377"),
    "msn-s": _named(_SMALL_16, "facebook/vit-msn-small", "Apache-2.0", "2204.07141"),
    "msn-b": _named(_BASE_16, "facebook/vit-msn-base", "Apache-2.0", "2204.07141"),
    "msn-l": _named(_LARGE_16, "facebook/vit-msn-large", "Apache-2.0", "2204.07141"),
    "clip-b": _named(_BASE_16, "openai/clip-vit-base-patch16", "MIT", "2103.00020"),
    "clip-l": _named((303, 1024, 162.0), "openai/clip-vit-large-patch14", "MIT", "2103.00020"),
    "openclip-h": _named(_HUGE_14, "open_clip:hf-hub:laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "MIT", "2212.07143"),
    "sam-b": ShortName("facebook/sam-vit-base", 90, 768, 972.1, **_SAM),
    "sam-l": ShortName("facebook/sam-vit-large", 308, 1024, 2985.7, **_SAM),
    "sam-h": ShortName("facebook/sam-vit-huge", 637, 1280, 5961.1, **_SAM),
    "densenet201": ShortName("timm:densenet201.tv_in1k", 18, 1920, 8.6, paper="1608.06993", **_IMAGENET),
    "resnet152": ShortName("timm:resnet152.tv2_in1k", 58, 2048, 23.0, paper="1512.03385", **_IMAGENET),
    "vgg19": ShortName("timm:vgg19.tv_in1k", 140, 4096, 39.0, paper="1409.1556", **{**_IMAGENET, **_VGG}),
    "dinov3-s": _dinov3((21.6, 384, None), "vits16", "vit_small_patch16"),
    "dinov3-s-plus": _dinov3((28.7, 384, None), "vits16plus", "vit_small_plus_patch16"),
    "dinov3-b": _dinov3((85.7, 768, None), "vitb16", "vit_base_patch16"),
    "dinov3-l": _dinov3((303, 1024, None), "vitl16", "vit_large_patch16"),
    "dinov3-h-plus": _dinov3((841, 1280, None), "vith16plus", "vit_huge_plus_patch16"),
    "dinov3-7b": _dinov3((6716, 4096, None), "vit7b16", "vit_7b_patch16"),
    "meddinov3": _named(
        (85.6, 768, None), "meddinov3:ricklisz123/MedDINOv3-ViTB-16-CT-3M",
        "Apache-2.0 on the Hub; made from weights under the DINOv3 licence", "2509.02379", 896,
        feature="patch tokens of one CT slice", features="mean",
    ),
    "uni": _pathology(
        (303, 1024, None), "MahmoodLab/UNI", "init_values=1e-5&dynamic_img_size=true", "CC-BY-NC-ND-4.0",
        "2308.15474", feature="class token", features="class",
    ),
    "uni2-h": _pathology(
        (681, 1536, None), "MahmoodLab/UNI2-h", _UNI2, "CC-BY-NC-ND-4.0", "2308.15474",
        feature="class token", features="class",
    ),
    "virchow": _pathology((631, 1280, None), "paige-ai/Virchow", _PACKED, "Apache-2.0", "2309.07778"),
    "virchow2": _pathology(
        (631, 1280, None), "paige-ai/Virchow2", _PACKED, "CC-BY-NC-ND-4.0", "2408.00738",
        feature="class token and mean patch token, without registers",
    ),
    "curia": _curia("raidium/curia", "2509.06830"),
    "curia-2": _curia("raidium/curia-2", "2604.01987"),
    "medsiglip": _named(
        (429, 1152, None), "google/medsiglip-448", "Health AI Developer Foundations terms of use", "2507.05201", 448,
        feature="attention-pooled vector of the vision tower", features="pooled",
        access=_gated("google/medsiglip-448"),
    ),
    "medimageinsight": _named(
        (363, 2048, None), "medimageinsight:lion-ai/MedImageInsights",
        "MIT by the tag of a copy on the Hub; Microsoft's own terms stand in Azure's catalogue", "2410.06542", 480,
        feature="projected vector of length 1 (1,024)", features="pooled",
    ),
    "pubmedclip": _named(
        (87, 768, None), "flaviagiammarino/pubmed-clip-vit-base-patch32", "MIT", "2112.13906", features="class",
    ),
    "xrv-densenet121": _named((7, 1024, None), "xrv:densenet121-res224-all", "Apache-2.0", "2111.00595", **_XRV),
    "xrv-resnet50": _named((23.5, 2048, None), "xrv:resnet50-res512-all", "Apache-2.0", "2111.00595", 512, **_XRV),
}  # fmt: skip
SHORT_NAMES = {name: entry.source for name, entry in LINEUP.items()}

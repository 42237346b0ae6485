"""What initial weights say of their architecture before they are read, and what a run may not change of it."""

from contextlib import suppress
from dataclasses import fields
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError

from biovfm_hf.architecture import FAMILY_FIELDS, Architecture, CheckedArchitecture
from biovfm_hf.conversion.place import read_object
from biovfm_hf.errors import UserError
from biovfm_hf.reading.documents import read_yaml
from biovfm_hf.sizes import named

from ..settings.architecture import checked_architecture, given_fields
from ..settings.augment import check_augment
from ..settings.config import OWN_KEYS, TrainConfig
from ..settings.weights import is_run
from . import config_of

ENCODER = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "patch_size",
    "num_channels",
    "mlp_ratio",
    "ffn_type",
    "hidden_act",
    "qkv_bias",
    "layerscale_value",
    "num_register_tokens",
    "interpolate_offset",
    "interpolate_antialias",
    "mask_key_bias",
    "layer_norm_eps",
    "untie_cls_and_patch_norms",
    "untie_global_and_local_cls_norm",
)
# rotary positions belong to the weights, as widths do; position tables are resized or made anew
ROTARY = (
    "position_embedding_type",
    "rope_base",
    "rope_min_period",
    "rope_max_period",
    "rope_normalize_coords",
    "rope_dtype",
    "rope_shift_coords",
    "rope_jitter_coords",
    "rope_rescale_coords",
)
DECODER = ("decoder_hidden_size", "decoder_num_hidden_layers", "decoder_num_attention_heads")
ARCHITECTURE = (*ENCODER, *ROTARY, *DECODER)
# in which weights and model must agree for the tensors to fit
_SHAPED = ("hidden_size", "num_hidden_layers", "patch_size", "num_channels", "ffn_type", "qkv_bias")
# what shapes of tensors do not show, although features depend on it
_UNSHAPED = ("num_attention_heads", "mask_key_bias", "hidden_act", "layer_norm_eps")
_UNSHAPED_ROTARY = ("rope_base", "rope_min_period", "rope_max_period", "rope_normalize_coords")
_RESIZING = ("interpolate_offset", "interpolate_antialias")
_ASSUMED = ("hidden_act", "layer_norm_eps", "rope_normalize_coords", *_RESIZING)  # a weight file does not state these
REMEDY = "give the model section (and the objective's, for heads that come along) the settings it was made with"


def check_initial(config: TrainConfig) -> None:
    """Refuse fields of the model that weights cannot have whose architecture is stated beside them.

    Raises:
        UserError: a field is wrong, or another than that of the weights.
    """
    source = config.model.init_from
    theirs = _stated_architecture(source) if source else None
    if source is None or theirs is None:
        return
    rotary = theirs.position_embedding_type == "rope"
    own = {name: getattr(theirs, name) for name in (*ENCODER, *(ROTARY if rotary else ()))}
    given = {name: value for name, value in given_fields(config).items() if name not in DECODER}
    ours = checked_architecture(config, own | given)
    check_alike(theirs, ours, source)
    check_augment(config.augment, ours.patch_size)


def _stated_architecture(source: str) -> Architecture | None:
    """The architecture of a run or of a model folder of ours; None if it shows only in the weights."""
    if is_run(source):
        return run_architecture(source)
    file = Path(source).expanduser() / "config.json"
    content = read_object(file)
    if content.get("model_type") != "biovfm":
        return None
    known = [item.name for item in fields(Architecture) if item.name in content]
    with suppress(ValueError, TypeError, StrictDataclassError):  # told with the file when it is read
        return CheckedArchitecture(**{name: content[name] for name in known})
    return None


def run_architecture(source: str) -> Architecture:
    """The architecture of the encoder that a run folder trains.

    Raises:
        UserError: its config.yaml cannot be read.
    """
    stated = read_yaml(Path(source) / "config.yaml")
    kind, section = config_of(str(stated["method"])), stated["model"]
    own = {"image_size": stated["augment"]["global_size"], **kind.model_fields}
    given = {name: value for name, value in section.items() if name not in OWN_KEYS}
    family = FAMILY_FIELDS[section.get("family") or kind.family]
    return CheckedArchitecture(**{**named(section["size"])._asdict(), **family, **own, **given})


def check_alike(
    theirs: Architecture, ours: Architecture, source: str, key: str = "model.init_from", resizing: bool = False
) -> None:
    """Refuse weights of `source` that do not fit, or with which our model computes other features than their own.

    A weight file has no config, so what had to be assumed of it is not compared. The precision of rotary positions and
    what acts only in training may differ.

    Args:
        theirs: the configuration that the weights were made with.
        ours: the one that they are used with.
        source: where the weights are.
        key: the setting that names `source`.
        resizing: also compare how learned position embeddings are resized.

    Raises:
        UserError: names the first field that differs.
    """
    rotary = ours.position_embedding_type == "rope"
    positions = _UNSHAPED_ROTARY if rotary else _RESIZING if resizing else ()
    assumed = _ASSUMED if Path(source).expanduser().is_file() else ()
    for name in (*_SHAPED, *_UNSHAPED, *positions):
        value, needed = getattr(theirs, name), getattr(ours, name)
        if value != needed and name not in assumed:
            raise UserError(f"{key} {source} has {name} {value}, this model {needed}; {REMEDY}")

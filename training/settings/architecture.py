"""The architecture that a run asks for: as the model's configuration, and checked before torch is imported."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from biovfm_hf import sizes
from biovfm_hf.architecture import FAMILY_FIELDS, Architecture, CheckedArchitecture, check_field
from biovfm_hf.errors import UserError, one_line
from biovfm_hf.nearest import did_you_mean

from .augment import check_augment
from .config import OWN_KEYS, TrainConfig
from .typed import UnknownKey

_CHANNELS = 3  # of the crops
# fields that are checked together, so not before the weights give the ones that are not given
_TOGETHER = (
    "image_size",
    "patch_size",
    "hidden_size",
    "num_attention_heads",
    "decoder_hidden_size",
    "decoder_num_attention_heads",
)


def biovfm_config(config: TrainConfig) -> Any:
    """The `BioVFMConfig` of the pretrained model, including a decoder.

    Raises:
        UserError: an unknown size or field, or values that do not fit together.
    """
    from biovfm_hf import BioVFMConfig

    given = given_fields(config)
    _check_names(config, [item.name for item in fields(BioVFMConfig)])
    try:
        made = BioVFMConfig.from_size(config.model.size, family=config.model.family or config.family, **given)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise _refused(config, error) from error
    _check_use(config, made, "model")
    return made


def check_sizes(config: TrainConfig, section: str = "model") -> None:
    """Refuse what `biovfm_config` refuses, and crops that are not whole patches, without its import of torch.

    With initial weights each field is checked alone, because the architecture is known only when these are read.

    Raises:
        UserError: as `biovfm_config` and `check_augment`.
    """
    _check_names(config, [item.name for item in fields(CheckedArchitecture)], section)
    given = given_fields(config)
    if config.model.init_from:
        checked_architecture(config, {name: value for name, value in given.items() if name not in _TOGETHER}, section)
        for name in _TOGETHER:
            if name in given:
                _check_alone(config, name, given[name], section)
        return
    made = checked_architecture(config, given, section)
    _check_use(config, made, section)
    check_augment(config.augment, made.patch_size)


def checked_architecture(config: TrainConfig, given: dict[str, Any], section: str = "model") -> CheckedArchitecture:
    """The architecture of the run's size and family with the fields `given`, which messages look for in `section`.

    Raises:
        UserError: an unknown size, or values that are wrong or do not fit together.
    """
    family = FAMILY_FIELDS[config.model.family or config.family]
    try:
        return CheckedArchitecture(**{**sizes.named(config.model.size)._asdict(), **family, **given})
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise _refused(config, error, section) from error


def _check_alone(config: TrainConfig, name: str, value: Any, section: str) -> None:
    try:
        check_field(name, value)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise _refused(config, error, section) from error


def _check_use(config: TrainConfig, made: Architecture, section: str) -> None:
    """Refuse architectures that exist, but that the images or the objective do not fit."""
    if made.num_channels != _CHANNELS:
        raise UserError(
            f"{section}.num_channels is {made.num_channels}; images are read with {_CHANNELS} channels, so give that"
        )
    if config.drops_patches and made.position_embedding_type == "rope":
        raise UserError(
            f"{section}: the {config.title} objective leaves patches out, which rotary positions (rope, those of the "
            f"family dinov3) cannot do; give {section}.position_embedding_type=sincos or learned"
        )


def _check_names(config: TrainConfig, known: Sequence[str], section: str = "model") -> None:
    for name in given_fields(config):
        if name not in known:
            near = did_you_mean(name, [*OWN_KEYS, *known], f"{section}.")
            raise UnknownKey(f"{section}.{name}", near)


def given_fields(config: TrainConfig) -> dict[str, Any]:
    """The fields of `BioVFMConfig` that do not follow from size and family."""
    return {"image_size": config.augment.global_size, **config.model_fields, **config.model.fields}


def _refused(config: TrainConfig, error: Exception, section: str = "model") -> UserError:
    reason = one_line(error.__cause__ or error)
    follows = "image_size" in reason and "image_size" not in config.model.fields
    return UserError(f"{section}: {reason}{' (it follows augment.global_size)' if follows else ''}")

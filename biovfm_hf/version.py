"""The version of this package, for `biovfm --version` and for what states the software that made it."""

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """The installed version, such as `0.1.0`."""
    try:
        return version("biovfm-hf")
    except PackageNotFoundError:
        return "(a checkout that is not installed)"

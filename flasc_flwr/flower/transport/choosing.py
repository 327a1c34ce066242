"""Choosing a transport's settings: defaults, and which do not go together."""

from __future__ import annotations

from collections.abc import Sequence

from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    Strategy,
)

from flasc_flwr.core.codec import VALUE_FORMATS
from flasc_flwr.core.feedback.memory import Fading
from flasc_flwr.core.methods.budget import AUTO, BYTES, density_or_auto
from flasc_flwr.core.methods.scores import QUOTAS
from flasc_flwr.core.printable import printable
from flasc_flwr.core.ranges import choice
from flasc_flwr.flower.transport.evidence import Replies, check_replies
from flasc_flwr.flower.transport.robust import comparing, within
from flasc_flwr.flower.transport.transport_settings import TransportSettings
from flasc_flwr.flower.transport.wrappable import require_names

DIFFERENCES = 1 / 2
"""Default density of differences to a reference."""

UPLOADS = 1 / 2
"""Default density of uploads."""

_PRIVATE = (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
)


def chosen_settings(
    inner: Strategy,
    *,
    error_feedback: str,
    download_density: float | str,
    upload_density: float | str,
    download_bytes: int,
    upload_bytes: int,
    values: str,
    whole: Sequence[str],
    sparse: Sequence[str],
    quota: str,
    replies: Replies,
    feedback_decay: float,
) -> TransportSettings:
    """Return a transport's settings, given the arguments of SparseTransport.

    Raises
    ------
    ValueError
        If one is out of range, or two do not go together.
    """
    # Of Python's own type, which messages can carry.
    download_bytes = int(BYTES.require("download_bytes", download_bytes))
    upload_bytes = int(BYTES.require("upload_bytes", upload_bytes))
    choice(AUTO, "none", "up", "both").require("error_feedback", error_feedback)
    if error_feedback == AUTO:
        error_feedback = "none" if is_private(inner) else "both"
    elif error_feedback != "none" and is_private(inner):
        raise ValueError(
            "error_feedback must be 'none' with differential privacy, as a residual "
            f"carries one round's data into the next, got {error_feedback!r}"
        )
    robust = comparing(inner) is not None
    follows = error_feedback == "both"
    value_format = choice(AUTO, *VALUE_FORMATS).require("values", values)
    if value_format == AUTO:
        # Error feedback sends later what 4 bits round off.
        value_format = "int8" if error_feedback == "none" else "int4"
    settings = TransportSettings(
        download_density=density_or_auto(
            "download_density",
            download_density,
            DIFFERENCES if follows else 1.0,
            download_bytes,
        ),
        upload_density=density_or_auto(
            "upload_density",
            upload_density,
            1.0 if robust else UPLOADS,
            upload_bytes,
        ),
        download_bytes=download_bytes,
        upload_bytes=upload_bytes,
        value_format=value_format,
        whole=require_names("whole", whole),
        sparse=require_names("sparse", sparse),
        error_feedback=error_feedback,
        fading=Fading(decay=feedback_decay),
        quota=choice(*QUOTAS).require("quota", quota),
        replies=check_replies(replies),
    )
    if error_feedback == "up" and (settings.download_density < 1 or download_bytes):
        raise ValueError(
            "with error_feedback 'up', downloads are whole: download_density must be 1 "
            f"and download_bytes 0, got {settings.download_density:.4g} and "
            f"{download_bytes}"
        )
    return settings


def settings_tree(inner: Strategy, settings: TransportSettings) -> list[str]:
    """Return the lines of a summary of the settings."""
    robust = comparing(inner)
    whole = printable(", ".join(("arrays of fewer than two axes", *settings.whole)))
    return [
        "├──> Sparse transport:",
        f"│\t├── Density: download ({settings.download_density:.4g}) | "
        f"upload ({settings.upload_density:.4g})"
        + (f", as {robust} compares replies" if robust else ""),
        f"│\t├── Most bytes of a payload: download "
        f"({settings.download_bytes or 'any'}) | "
        f"upload ({settings.upload_bytes or 'any'})",
        f"│\t├── Value format: {settings.value_format}",
        f"│\t├── Error feedback: {settings.error_feedback}",
        f"│\t├── Travel whole: {whole}",
        f"│\t└── Inner strategy: {type(inner).__name__}",
    ]


def notices(inner: Strategy, settings: TransportSettings) -> list[str]:
    """Return what a user should know before a run starts, a line each."""
    lines = []
    name = comparing(inner)
    if name and (settings.upload_density < 1 or settings.upload_bytes):
        lines.append(
            f"{name} compares replies, and an entry that most of them do not hold does "
            "not move: use upload_density=1 (the default) without upload_bytes"
        )
    if is_private(inner):
        lines.append(
            "SparseTransport has no error feedback with differential privacy, as a "
            "residual carries one round's data into the next: what a message leaves "
            "out is lost"
        )
    if settings.masks_weights:
        lines.append(
            "SparseTransport masks weights, as error_feedback is 'none' and the "
            "download is limited: entries that are not sent are zero on the devices. "
            "This breaks a pretrained model; error_feedback='both' does not"
        )
    return lines


def is_private(strategy: Strategy) -> bool:
    """Return whether a strategy is or wraps one of Flower's wrappers that add noise."""
    return any(isinstance(one, _PRIVATE) for one in within(strategy))

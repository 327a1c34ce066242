"""Settings that would silently do nothing, though a run would be named after them."""

from __future__ import annotations

from flasc_flwr.app.config.training import LocalPrivacySettings
from flasc_flwr.core.methods.allotment import Allotment
from flasc_flwr.core.methods.schedules import decaying_to
from flasc_flwr.core.settings import settings_of
from flasc_flwr.flower.clients.guard import Guard

_LOCAL_DP = ("local_dp_delta", "local_dp_clip_norm")


def require_effect(
    local: LocalPrivacySettings, guard: Guard, allotment: Allotment
) -> None:
    """Check that what is asked for happens.

    Settings that only matter with others, such as ``client-beta1`` with AdamW, are left
    alone: the documentation says what uses them.

    Parameters
    ----------
    local : LocalPrivacySettings
        Local privacy.
    guard : Guard
        Bounds on replies.
    allotment : Allotment
        The method, with its densities and their decay.

    Raises
    ------
    ValueError
        If local privacy, clipping, pruning or unequal densities would be missing from a
        run whose settings name them.
    """
    for name in _LOCAL_DP:
        setting, value = settings_of(local)[name], getattr(local, name)
        if not local.local_dp_epsilon and value != setting.run_config_default:
            raise ValueError(
                f"{setting.key} is {value!r} without a local-dp-epsilon, so nothing is "
                "private: set a local-dp-epsilon above 0"
            )
    if guard.norm_action == "clip" and not guard.max_norm:
        raise ValueError(
            "max-update-norm must be above 0 with update-norm-action 'clip', since "
            "what exceeds update-norm-ratio is rejected, got 0.0"
        )
    method = allotment.method
    prunes = method.schedule is decaying_to and allotment.most.download_density < 1
    if prunes and allotment.download_decay == 1:
        raise ValueError(
            f"download-density-decay must be below 1 with method {method.name!r}, "
            "which starts at density 1 and would stay there, or auto, got 1.0"
        )
    fixed = (method.download_density, method.upload_density)
    if method.tiers == "density" and None not in fixed:
        raise ValueError(
            f"tiers must not be 'density' with method {method.name!r}, whose densities "
            "are the same on all devices"
        )
    for key, given, ranks in (
        ("tiers", method.tiers, "rank"),
        ("rank-assignment", method.rank_assignment, "validation"),
    ):
        if given == ranks and not method.tunes.adapts:
            raise ValueError(
                f"{key} must not be {ranks!r} with method {method.name!r}, which has "
                "no adapter and so no ranks"
            )

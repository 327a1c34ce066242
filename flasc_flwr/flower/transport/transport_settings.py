"""How a SparseTransport sends arrays: its settings, once they are chosen."""

from __future__ import annotations

from dataclasses import dataclass, field

from flasc_flwr.core.feedback.memory import Fading
from flasc_flwr.flower.transport.evidence import AUTO, Replies


@dataclass(frozen=True, kw_only=True)
class TransportSettings:
    """How a SparseTransport sends arrays.

    Attributes
    ----------
    download_density, upload_density : float
        Largest fractions of the entries that are sent each way, in (0, 1]. If a
        download is a difference, of the entries of the difference.
    download_bytes, upload_bytes : int
        Most bytes of a payload each way; 0 is no limit.
    value_format : str
        Value format of both payloads.
    whole, sparse : tuple[str, ...]
        Names or patterns of arrays that are exceptions to the rule,
        :func:`~flasc_flwr.flower.transport.rule.why_whole`.
    error_feedback : str
        What is remembered: ``none``, ``up`` (at the devices) or ``both``.
    fading : Fading
        How residuals fade.
    quota : str
        Where entries compete: one of :data:`~flasc_flwr.core.methods.scores.QUOTAS`.
    replies : str or Mapping[str, str]
        What replies hold, by key of their ArrayRecords.
    """

    download_density: float
    upload_density: float
    download_bytes: int
    upload_bytes: int
    value_format: str
    whole: tuple[str, ...] = ()
    sparse: tuple[str, ...] = ()
    error_feedback: str = "none"
    fading: Fading = field(default_factory=Fading)
    quota: str = "tensor"
    replies: Replies = AUTO

    @property
    def lossless_download(self) -> bool:
        """Whether downloads lose nothing: arrays then travel unencoded."""
        return self._is_lossless(self.download_density, self.download_bytes)

    @property
    def lossless_upload(self) -> bool:
        """Whether uploads lose nothing: arrays then travel unencoded."""
        return self._is_lossless(self.upload_density, self.upload_bytes)

    @property
    def how(self) -> str:
        """How arrays in payloads travel, in one word; empty if nothing is lost."""
        if self.lossless_download and self.lossless_upload:
            return ""
        bounds = self.download_bytes, self.upload_bytes
        densities = self.download_density, self.upload_density
        return "sparse" if any(bounds) or min(densities) < 1 else "rounded"

    @property
    def follows(self) -> bool:
        """Whether downloads are differences to a reference."""
        return self.error_feedback == "both" and not self.lossless_download

    @property
    def remembers_uploads(self) -> bool:
        """Whether devices keep what their replies leave out."""
        return self.error_feedback != "none" and not self.lossless_upload

    @property
    def masks_weights(self) -> bool:
        """Whether devices train from weights of which some arrive as zero."""
        return self.error_feedback == "none" and bool(
            self.download_density < 1 or self.download_bytes
        )

    @property
    def grid(self) -> str:
        """Value format of downloads that have every entry, and of references."""
        return "float32" if self.value_format == "float32" else "bfloat16"

    def _is_lossless(self, density: float, most_bytes: int) -> bool:
        return density == 1 and not most_bytes and self.value_format == "float32"

"""Which segment of a sweep measures the references."""

from __future__ import annotations

from dataclasses import dataclass, field

from settings.paths import SweepPaths
from settings.warning import warn


@dataclass
class ReferencesOnce:
    """Chooses the segment that measures the references: the first, and the next one where that
    ended before it could. The segment's last report is in before it measures, so that no trial
    waits for it; its own end comes later by the time of the measurement.

    Attributes:
        failed: whether they could not be measured in this session.
    """

    paths: SweepPaths
    failed: bool = False
    _asked: str = ""
    _open: bool = field(init=False)

    def __post_init__(self) -> None:
        self._open = not self.paths.references.exists()

    def asked_of(self, ray_id: str) -> bool:
        """Whether this segment, which is being handed out, is to measure them."""
        if not self._open or self._asked:
            return False
        self._asked = ray_id
        self.paths.references_error.unlink(missing_ok=True)  # of an earlier session
        return True

    def ended(self, ray_id: str, *, at_its_end: bool) -> bool:
        """Looks what came of it; whether it was this segment that had been asked.

        Args:
            at_its_end: whether the segment had made its last report, so that it has measured, or
                died of it.
        """
        if ray_id != self._asked:
            return False
        self._asked, error = "", self.paths.references_error
        if self.paths.references.exists():
            self._open = False
        elif error.exists() or at_its_end:
            lines = error.read_text().strip().splitlines() if error.exists() else []
            died = "the process that measured them has died, or could not write"
            said = f"{lines[-1]} ({error})" if lines else died
            warn(
                f"the references could not be measured: {said}. The sweep goes on without them; a "
                "resume tries again."
            )
            self._open, self.failed = False, True
        return True

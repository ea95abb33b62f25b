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
    """

    paths: SweepPaths
    _asked: str = ""
    _open: bool = field(init=False)

    def __post_init__(self) -> None:
        self._open = not self.paths.references.exists()

    def asked_of(self, ray_id: str) -> bool:
        """Whether this segment, which is being handed out, is to measure them."""
        if not self._open or self._asked:
            return False
        self._asked = ray_id
        return True

    def ended(self, ray_id: str) -> None:
        """Looks what came of it."""
        if ray_id != self._asked:
            return
        self._asked = ""
        if self.paths.references_error.exists():
            lines = self.paths.references_error.read_text().strip().splitlines()
            warn(
                f"the references could not be measured: {lines[-1]} "
                f"({self.paths.references_error}). The sweep goes on without them; a resume tries "
                "again."
            )
            self._open = False
        elif self.paths.references.exists():
            self._open = False

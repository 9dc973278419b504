"""With which settings the engine process is started next: a restart, another model, the former one again."""

from __future__ import annotations

import time
from contextlib import suppress

from bluelm import models
from bluelm.config import Settings
from bluelm.errors import BlueLMError

DRAIN_S = 10.0  # what open answers get to end in, before a restart that was asked for


class Choice:
    """Plain data; whoever shares it between threads holds a lock.

    now: the settings of the process that runs, or of the next one. wish: those that are to follow, once no answer is
    open or some seconds have gone by.
    """

    def __init__(self, given: Settings) -> None:
        self.given = self.now = given
        self.wish: Settings | None = None
        self._proven: Settings | None = None  # the last with which a model was loaded
        self._until = 0.0
        self._may_go_back = True

    def settings_for(self, model: str) -> Settings:
        """Those for another model, named as in settings.model. Raises SettingError, CheckpointError."""
        if model == self.given.model:
            wanted = self.given
        else:  # which kind was told of the model given at the start alone
            wanted = self.given.model_copy(update={"model": model, "kind": "auto"})
        models.find(wanted)
        return wanted

    def ask(self, settings: Settings | None = None, *, may_go_back: bool = True) -> None:
        """None: the same again (of a wish that is open: that one)."""
        self.wish = settings or self.wish or self.now
        self._until = time.monotonic() + DRAIN_S
        self._may_go_back = may_go_back

    def is_due(self, open_answers: int) -> bool:
        """Whether the process is to end now."""
        return self.wish is not None and (not open_answers or time.monotonic() > self._until)

    def take_wish(self) -> bool:
        """Make the wish the settings of the next process; False if there is none."""
        if self.wish is None:
            return False
        self.now, self.wish = self.wish, None
        if not self._may_go_back:
            self._proven = None
        return True

    def loaded(self) -> None:
        self._proven = self.now

    def go_back(self) -> bool:
        """Take the settings that were known to be good, since these were not; False where there are no others."""
        if self._proven is None or self._proven is self.now:
            return False
        self.now = self._proven
        return True

    @property
    def checkpoint(self) -> str:
        """The path of what is served, or is to be; "demo" for the embedded model, "" for what is not there."""
        with suppress(BlueLMError):
            return str(models.find(self.wish or self.now) or models.DEMO)
        return (self.wish or self.now).model

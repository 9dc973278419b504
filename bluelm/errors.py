"""Every error that users may see, as one tree.

    BlueLMError
    ├── InvalidRequest          400  the request can never work as it is
    │   ├── InvalidParameter         a named value of the wrong type or out of range
    │   ├── UnsupportedOption        a named option that exists elsewhere but not here
    │   ├── WrongModelKind           chat asked of a base model
    │   ├── BadImport                a file of conversations with a line that cannot be read
    │   └── PromptTooLong            prompt and answer do not fit in the window
    ├── Unauthorized            401  no passcode and no key, or a wrong one
    ├── Forbidden               403  not from there: another site, another machine, a proxy
    ├── NotFound                404  no such route, model or conversation
    ├── Conflict                409  not while something else is under way
    ├── QueueFull               429  later; `retry_after` seconds
    ├── TooManyAttempts         429  too many wrong passcodes; `retry_after` seconds
    ├── RateLimited             429  a key's limit is reached; `retry_after` seconds
    ├── GenerationFailed        500  the engine could not go on with this one answer
    │   └── OutOfMemory              a step does not fit in memory
    ├── EngineUnavailable       503  no answer can be made at the moment
    │   ├── EngineLoading            the model is being loaded
    │   ├── EngineDown               the model could not be loaded, or the engine was closed
    │   ├── EngineDied               the process ended while it worked on this answer
    │   └── EngineRestarted          somebody had it restarted, or another model loaded, meanwhile
    ├── StorageError            507  conversations cannot be kept on the disk
    └── StartupError            500  the app or the engine cannot start as it is set up
        ├── SettingError             a setting with a bad value
        ├── NotEnoughMemory          the model, or any cache beside it, does not fit
        ├── CheckpointError          a model folder or file that does not fit
        └── ExportError              an exported folder that cannot be written

A message is a whole English sentence followed by a remedy. The page words its own in the reader's language
from `code` and `details` (components/i18n.py); programs get `code`, `message` and `param`.
"""

from __future__ import annotations

from typing import Any, ClassVar


class BlueLMError(Exception):
    """The root. `code` names the kind, `status` is the HTTP status, `param` the field at fault (or None).

    `details` holds plain JSON values that a translated sentence needs (numbers, names).
    """

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, param: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.details = details

    def to_wire(self) -> dict[str, Any]:
        """A JSON object from which `from_wire` makes an equal error in another process."""
        return {"code": self.code, "message": self.message, "param": self.param, "details": self.details}

    @staticmethod
    def from_wire(data: dict[str, Any]) -> BlueLMError:
        """The error that `to_wire` described; an unknown code becomes a plain BlueLMError."""
        kind = _by_code().get(data["code"], BlueLMError)
        error = BlueLMError.__new__(kind)
        BlueLMError.__init__(error, data["message"], param=data.get("param"), **data.get("details", {}))
        return error


def _by_code() -> dict[str, type[BlueLMError]]:
    kinds: dict[str, type[BlueLMError]] = {}
    todo = [BlueLMError]
    while todo:
        kind = todo.pop()
        kinds[kind.code] = kind
        todo.extend(kind.__subclasses__())
    return kinds


class InvalidRequest(BlueLMError):
    code = "invalid_request"
    status = 400


class InvalidParameter(InvalidRequest):
    """`param` has a value that can never be used; `must` says what it has to be ("a number from 0 to 2")."""

    code = "invalid_parameter"

    def __init__(self, param: str, value: Any, must: str) -> None:
        shown = repr(value)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        super().__init__(f"{param} is {shown}: it must be {must}.", param=param, value=shown, must=must)


class UnsupportedOption(InvalidRequest):
    code = "unsupported_option"

    def __init__(self, param: str, remedy: str) -> None:
        super().__init__(f"{param} is not supported here: {remedy}", param=param, remedy=remedy)


class WrongModelKind(InvalidRequest):
    code = "wrong_model_kind"


class PromptTooLong(InvalidRequest):
    """Prompt and answer need more tokens than the window has. All figures are tokens; at_least: the prompt has more,
    maybe, and was not counted to its end."""

    code = "context_length_exceeded"

    def __init__(
        self, prompt_tokens: int, max_length: int, window: int, param: str = "prompt", *, at_least: bool = False
    ) -> None:
        least = "at least " if at_least else ""
        super().__init__(
            f"The prompt has {least}{prompt_tokens} tokens and the answer may have {max_length}, together more than "
            f"the {window} tokens this model can hold: shorten the prompt or lower max_length.",
            param=param,
            prompt_tokens=prompt_tokens,
            max_length=max_length,
            window=window,
            at_least=at_least,
        )


class BadImport(InvalidRequest):
    """`line` (from 1; 0: the whole file) cannot be taken in; `why` is a word for the page, `remedy` a sentence."""

    code = "bad_import"

    def __init__(self, line: int, why: str, remedy: str, **details: Any) -> None:
        place = f"Line {line}" if line else "The file"
        super().__init__(f"{place} {remedy} Nothing was imported.", line=line, why=why, **details)


class Unauthorized(BlueLMError):
    code = "invalid_api_key"  # OpenAI's word for it
    status = 401

    def __init__(self) -> None:
        super().__init__(
            "The passcode or API key is missing or wrong: send it as `Authorization: Bearer ...` (api_key of an OpenAI "
            "client), or sign in at /login."
        )


class Forbidden(BlueLMError):
    code = "forbidden"
    status = 403


class NotFound(BlueLMError):
    code = "not_found"
    status = 404


class Conflict(BlueLMError):
    code = "conflict"
    status = 409


class QueueFull(BlueLMError):
    code = "queue_full"
    status = 429

    def __init__(self, waiting: int, retry_after: int = 5) -> None:
        super().__init__(
            f"{waiting} requests are waiting already: try again in {retry_after} seconds.",
            waiting=waiting,
            retry_after=retry_after,
        )


class TooManyAttempts(BlueLMError):
    code = "too_many_attempts"
    status = 429

    def __init__(self, retry_after: int) -> None:
        super().__init__(
            f"Too many wrong passcodes or keys came from here: try again in {retry_after} seconds.",
            retry_after=retry_after,
        )


class RateLimited(BlueLMError):
    """`limit` is the beginning of a sentence: whose limit it is, and how much."""

    code = "rate_limited"
    status = 429

    def __init__(self, limit: str, retry_after: int) -> None:
        super().__init__(f"{limit}: try again in {retry_after} seconds.", retry_after=retry_after)


class GenerationFailed(BlueLMError):
    code = "generation_failed"
    status = 500


class OutOfMemory(GenerationFailed):
    code = "out_of_memory"


class EngineUnavailable(BlueLMError):
    code = "engine_unavailable"
    status = 503


class EngineLoading(EngineUnavailable):
    """`progress` is a fraction from 0 to 1, `phase` a short English word for what is being done."""

    code = "engine_loading"

    def __init__(self, phase: str, progress: float) -> None:
        super().__init__(
            f"The model is still loading ({phase}, {progress:.0%}): try again in some seconds.",
            phase=phase,
            progress=progress,
        )


class EngineDown(EngineUnavailable):
    code = "engine_down"


class EngineDied(EngineUnavailable):
    code = "engine_died"

    def __init__(self, why: str = "") -> None:
        super().__init__(
            f"The engine stopped while it worked on this answer{f' ({why})' if why else ''}: "
            "it is being started again; send the request once more in some seconds.",
            why=why,
        )


class EngineRestarted(EngineUnavailable):
    code = "engine_restarted"

    def __init__(self) -> None:
        super().__init__(
            "The engine was restarted on request while it worked on this answer: send the request once more when the "
            "model is loaded."
        )


class StorageError(BlueLMError):
    """`why`: full, readonly, damaged, in_use, or failed. `detail`: the system's own words, or where a file went."""

    code = "storage_error"
    status = 507

    def __init__(self, why: str, detail: str) -> None:
        super().__init__(f"Conversations cannot be kept on the disk ({why}): {detail}", why=why, detail=detail)


class StartupError(BlueLMError):
    code = "startup_error"
    status = 500


class SettingError(StartupError):
    code = "bad_setting"


class NotEnoughMemory(StartupError):
    code = "not_enough_memory"


class CheckpointError(StartupError):
    code = "bad_checkpoint"


class ExportError(StartupError):
    code = "export_failed"

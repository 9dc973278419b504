"""Settings, read once from BLUELM_* environment variables and the file bluelm.toml beside app.py (the former win)."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from bluelm.errors import SettingError

ROOT = Path(__file__).resolve().parent.parent


class Settings(BaseSettings):
    """All that can be set; each field is also the variable BLUELM_<NAME>. Address and port: .streamlit/config.toml."""

    model_config = SettingsConfigDict(
        env_prefix="BLUELM_", toml_file=ROOT / "bluelm.toml", extra="forbid", frozen=True, protected_namespaces=()
    )

    model: str = Field("", description="a model folder or .gguf file; empty: the embedded demo model")
    kind: Literal["auto", "chat", "base"] = Field("auto", description="chat, or plain completion; auto: by its name")
    device: str = Field("auto", description="auto, cpu, cuda (all cards), or cards by number: cuda:1, cuda:0,2")
    engines: int = Field(0, ge=0, le=64, description="engine processes; 0: one per card, one on a CPU")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="precision of the weights")
    quantization: Literal["none", "int8", "int4"] = Field("none", description="what 16-bit weights are rounded to")
    kernels: Literal["auto", "plain"] = Field("auto", description="plain: PyTorch's own operations alone")
    exact: bool = Field(False, description="other answers change no bit of an answer; costs speed")
    gpu_memory: float = Field(0.92, gt=0, description="what the engine may take of a card: up to 1 a share, above GB")
    threads: int = Field(0, ge=0, description="CPU threads of the engine; 0: one per core")
    context: int = Field(0, ge=0, description="tokens of prompt and answer together; 0: all that the model can hold")
    cache_tokens: int = Field(0, ge=0, description="tokens of KV cache; 0: chosen from the memory at hand")
    max_running: int = Field(0, ge=0, le=1024, description="answers made at the same time; 0: 64 on a card, else 32")
    max_waiting: int = Field(256, ge=1, description="requests that may wait; one more is refused with 429")
    step_tokens: int = Field(0, ge=0, description="prompt tokens computed per step beside the answers; 0: by device")
    passcode: SecretStr = Field(SecretStr(""), exclude=True, description="what people and programs need to come in")
    keys: str = Field("", description="file with keys for programs; a path that is not absolute starts at the app's")
    public_url: str = Field("", description="addresses that browsers show, as https://name:port, with commas between")
    demo: bool = Field(False, description="a clean page for an audience: large text, locked settings")
    data: str = Field("data", description="folder of the saved conversations; one that is not absolute is the app's")
    silence_s: float = Field(30.0, gt=0, description="an engine process without a sign of life for so long is ended")
    step_limit_s: float = Field(600.0, gt=0, description="one that computes a single step for so long is ended too")
    drain_s: float = Field(8.0, ge=0, description="at SIGTERM open answers may go on for so long")
    log: Literal["text", "json"] = Field("text", description="log lines for people, or a JSON object each")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="what the log tells")
    log_prompts: bool = Field(False, description="prompts and answers in the log; off, no word of them is")
    abandon_after_s: float = Field(15.0, gt=0, description="an answer on the page that nobody watches ends after this")

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+(,\d+)*)?", value):
            raise ValueError("it must be auto, cpu, cuda, or cuda: and the numbers of cards, as in cuda:0,1")
        return value

    @field_validator("passcode")
    @classmethod
    def _fit_for_a_header(cls, value: SecretStr) -> SecretStr:
        given = value.get_secret_value()
        if given and not re.fullmatch(r"[!-~]{8,200}", given):
            raise ValueError("it must be 8 to 200 letters, digits and signs of ASCII, without spaces")
        return value

    @field_validator("public_url")
    @classmethod
    def _addresses(cls, value: str) -> str:
        for url in value.split(","):
            if url.strip() and not re.fullmatch(
                r"https?://([A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(:\d{1,5})?/?", url.strip()
            ):
                raise ValueError("it must be what a browser shows before the path, as in https://chat.example.org:8443")
        return value

    def public_urls(self) -> list[str]:
        """The addresses of public_url, without slashes at the end."""
        return [url.strip().rstrip("/") for url in self.public_url.split(",") if url.strip()]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(**given: Any) -> Settings:
    """The settings; `given` wins over environment and file. Raises SettingError, which names each bad one."""
    unknown = sorted(
        name
        for name in os.environ
        if name.startswith("BLUELM_") and name.removeprefix("BLUELM_").lower() not in Settings.model_fields
    )
    if unknown:
        known = ", ".join(f"BLUELM_{name.upper()}" for name in Settings.model_fields)
        raise SettingError(f"Unknown setting: {', '.join(unknown)}. Known are {known}.")
    try:
        return Settings(**given)
    except ValidationError as error:
        faults = "; ".join(_told(".".join(map(str, fault["loc"])), fault) for fault in error.errors())
        raise SettingError(
            f"Bad setting: {faults}. Set BLUELM_<NAME> in the environment, or the name in bluelm.toml, to a good value."
        ) from None
    except ValueError as error:  # a file that is not TOML
        raise SettingError(f"bluelm.toml cannot be read: {error}. Correct or remove the file.") from None


def _told(name: str, fault: Any) -> str:
    return f"{name} {'(not shown)' if name == 'passcode' else 'is ' + repr(fault['input'])}: {fault['msg']}"

"""What a checkpoint folder in Hugging Face's layout says about its tokenizer, spread over some files."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from bluelm.engine import fast_tokenizer, sentencepiece_tokenizer
from bluelm.engine.specials import Vocabulary
from bluelm.errors import CheckpointError
from bluelm.prompt import AI, END_OF_ANSWER, FUNCTION, HUMAN, SYSTEM, BlueLMTemplate, JinjaTemplate, PromptTemplate

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")


class Folder:
    """One folder. All methods raise CheckpointError, which names the file at fault and the remedy."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def vocabulary(self) -> tuple[Vocabulary, int | None]:
        """The vocabulary, and the bos id that is to be put in front of a text (None: none)."""
        self._check_config()
        if (self.path / "tokenizer.json").exists():
            return self._fast()
        if (self.path / "tokenizer.model").exists():
            return self._sentencepiece()
        raise CheckpointError(
            f"{self.path} has neither tokenizer.json nor tokenizer.model: download the checkpoint again."
        )

    def eos_ids(self, vocabulary: Vocabulary) -> list[int]:
        """The tokens that end an answer: generation_config.json has the last word, then config.json."""
        for name in ("generation_config.json", "config.json"):
            eos = self._json(name).get("eos_token_id")
            if eos is not None:
                return list(eos) if isinstance(eos, list) else [eos]
        eos = vocabulary.names.id_of(self.special_tokens.get("eos_token", END_OF_ANSWER))
        if eos is None:
            raise CheckpointError(
                f"No file of {self.path} says which token ends an answer: add eos_token_id to generation_config.json."
            )
        return [eos]

    def template(self, vocabulary: Vocabulary) -> PromptTemplate | None:
        """BlueLM's format where the vocabulary has its markers, or the folder's chat template, or None."""
        if all(vocabulary.names.id_of(marker) is not None for marker in (HUMAN, AI)):
            if vocabulary.names.id_of(END_OF_ANSWER) is None:
                raise CheckpointError(
                    f"The tokenizer of {self.path} has BlueLM's markers but no {END_OF_ANSWER}: download it again."
                )
            return BlueLMTemplate(tools=all(vocabulary.names.id_of(one) is not None for one in (SYSTEM, FUNCTION)))
        source = self._chat_template()
        return JinjaTemplate(source, self.special_tokens) if source else None

    def _fast(self) -> tuple[Vocabulary, int | None]:
        specification = self._json("tokenizer.json")
        vocabulary, before, after = fast_tokenizer.load(specification)
        if after or len(before) > 1:
            raise CheckpointError(
                f"{self.path / 'tokenizer.json'} puts {len(before)} tokens before a text and {len(after)} after it; "
                "only bos can be added here: change its post_processor."
            )
        default = bool(before)
        if not self._config.get("add_bos_token", default):
            return vocabulary, None
        return vocabulary, before[0] if before else self._bos_id(vocabulary)

    def _sentencepiece(self) -> tuple[Vocabulary, int | None]:
        model = (self.path / "tokenizer.model").read_bytes()
        vocabulary = sentencepiece_tokenizer.load(model, self.declared_ids())
        return vocabulary, self._bos_id(vocabulary) if self._config.get("add_bos_token", True) else None

    def _bos_id(self, vocabulary: Vocabulary) -> int:
        bos = self.special_tokens.get("bos_token", "<s>")
        id = vocabulary.names.id_of(bos)
        if id is None:
            raise CheckpointError(
                f"{self.path / 'tokenizer_config.json'} wants {bos!r} before a text, and the tokenizer has no such "
                "special token: correct bos_token, or set add_bos_token to false."
            )
        return id

    def _check_config(self) -> None:
        """Refuse what would change the ids and is not done here."""
        file = self.path / "tokenizer_config.json"
        if self._config.get("add_eos_token"):
            raise CheckpointError(
                f"{file} adds eos after a prompt, which would end the answer: set add_eos_token to false."
            )
        if (self.path / "tokenizer.json").exists():
            return  # it spells out everything else itself
        if self._config.get("legacy") is False and "Llama" in self._config.get("tokenizer_class", ""):
            raise CheckpointError(
                f"{file} has legacy false, which needs a tokenizer.json: save the tokenizer with one."
            )
        for token in [*self._declared().values(), *self._config.get("added_tokens_decoder", {}).values()]:
            strips = [key for key in ("lstrip", "rstrip", "single_word") if isinstance(token, dict) and token.get(key)]
            if strips:
                raise CheckpointError(
                    f"{file} gives the token {token.get('content')!r} the option {strips[0]}, which is not supported "
                    "with tokenizer.model: save the tokenizer with a tokenizer.json."
                )

    def declared_ids(self) -> dict[int, str]:
        """Tokens that files beside tokenizer.model name."""
        added = {id: text for text, id in self._json("added_tokens.json").items()}
        decoder = self._config.get("added_tokens_decoder", {})
        return added | {int(id): token["content"] for id, token in decoder.items()}

    def _declared(self) -> dict[str, Any]:
        both = self._json("special_tokens_map.json") | self._config
        return {name: both[name] for name in _SPECIAL_TOKENS if both.get(name)}

    @property
    def special_tokens(self) -> dict[str, str]:
        """{"bos_token": "<s>", ...}"""
        return {name: t["content"] if isinstance(t, dict) else t for name, t in self._declared().items()}

    def _chat_template(self) -> str | None:
        file = self.path / "chat_template.jinja"
        if file.exists():
            return file.read_text(encoding="utf-8")
        template = self._config.get("chat_template")
        if isinstance(template, list):  # several, by name
            template = next((each["template"] for each in template if each["name"] == "default"), None)
        return template

    @cached_property
    def _config(self) -> dict[str, Any]:
        return self._json("tokenizer_config.json")

    def _json(self, name: str) -> dict[str, Any]:
        """A JSON object of the folder; an empty one where the file is missing."""
        file = self.path / name
        try:
            value = json.loads(file.read_bytes()) if file.exists() else {}
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file} cannot be read ({error}): download the checkpoint again.") from error
        if not isinstance(value, dict):
            raise CheckpointError(f"{file} is no JSON object: download the checkpoint again.")
        return value

"""Text to token ids and back, for every kind of checkpoint that is served."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bluelm.engine import fast_tokenizer, gguf_tokenizer
from bluelm.engine.detokenizer import IncrementalDecoder, StopStrings
from bluelm.engine.specials import Vocabulary
from bluelm.engine.tokenizer_folder import Folder
from bluelm.errors import InvalidParameter
from bluelm.prompt import JinjaTemplate, Part, PromptTemplate
from bluelm.types import Token

__all__ = ["IncrementalDecoder", "StopStrings", "Tokenizer", "from_folder", "from_gguf"]


class Tokenizer:
    """One loaded tokenizer. Safe to share between threads.

    size: ids are 0 .. size - 1; what the embedding table has beyond must never be sampled.
    eos_ids: tokens that end a sequence. stop_ids: those, and the template's stop markers.
    special_ids: tokens without text (control tokens); chat markers that are ordinary pieces are not among them.
    bos_id: what `encode` puts in front, or None. template: how messages become a prompt; None for a base model.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        eos_ids: Collection[int],
        bos_id: int | None,
        template: PromptTemplate | None,
    ) -> None:
        self._vocabulary = vocabulary
        self._names = vocabulary.names
        self._table = vocabulary.table
        self.size = len(vocabulary.table)
        self.special_ids = vocabulary.special_ids
        self.eos_ids = frozenset(eos_ids)
        self.bos_id = bos_id
        self.template = template
        markers = template.stop_markers if template else ()
        self.stop_ids = self.eos_ids | {id for m in markers if (id := self._names.id_of(m)) is not None}

    def encode(self, parts: Sequence[Part], *, bos: bool = True) -> list[int]:
        """The ids of a prompt, as if its whole string were tokenized at once.

        Special tokens and markers written by trusted parts become their ids; the same letters in untrusted parts, or
        across a seam, are ordinary text. bos comes first, unless the template writes its own or it is not wanted.
        Raises InvalidParameter for text that is not Unicode (a lone surrogate).
        """
        text = "".join(self._names.rename(part.text) if part.trusted else part.text for part in parts)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            bad = text[error.start : error.end]
            raise InvalidParameter("content", bad, "whole Unicode characters, not half of a surrogate pair") from None
        ids = self._vocabulary.encode(text)
        templated = any(part.trusted for part in parts)
        writes_bos = templated and self.template is not None and self.template.writes_bos
        return ids if self.bos_id is None or writes_bos or not bos else [self.bos_id, *ids]

    def fewest(self, parts: Sequence[Part]) -> int:
        """So many tokens at least has a prompt: no token stands for more bytes than the longest does. 0: not known."""
        if not self._vocabulary.longest:
            return 0
        texts = (part.text.encode("utf-8", "surrogatepass").translate(None, self._vocabulary.unseen) for part in parts)
        return -(-sum(map(len, texts)) // self._vocabulary.longest)

    def decoder(self) -> IncrementalDecoder:
        """For one answer: text that goes on where a prompt ended, so a leading space is kept; control tokens are ''."""
        return IncrementalDecoder(self._table)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, as `decoder` gives it."""
        decoder = self.decoder()
        return "".join(map(decoder.push, ids)) + decoder.flush()

    def spell(self, ids: Iterable[int]) -> str:
        """The same with special tokens and markers by name."""
        named = {id: name.encode() for id, name in self._names.public.items()}
        return b"".join(named.get(id, self._table[id]) for id in ids).decode("utf-8", "replace")

    def piece(self, id: int) -> str:
        """One token for display: special tokens by name, bytes that are no whole character as \\xNN."""
        return self._names.public.get(id) or self._table[id].decode("utf-8", "backslashreplace")

    def token(self, id: int) -> Token:
        """All that there is to tell of an id."""
        return Token(id, self.piece(id), self._table[id], id in self._names.public)


def from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a GGUF file, from its metadata (see gguf_file).

    Raises CheckpointError for what cannot be read, and for other kinds than SmolLM2's.
    """
    vocabulary, _, _ = fast_tokenizer.load(gguf_tokenizer.specification(metadata))
    bos, eos = (metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos"))
    chat = metadata.get("tokenizer.chat_template")
    named = {"bos_token": bos, "eos_token": eos}
    spelled = {name: vocabulary.names.public[id] for name, id in named.items() if id is not None}
    return Tokenizer(
        vocabulary,
        eos_ids=[] if eos is None else [eos],
        bos_id=bos if metadata.get("tokenizer.ggml.add_bos_token") else None,
        template=JinjaTemplate(chat, spelled) if chat else None,
    )


def from_folder(path: Path | str) -> Tokenizer:
    """The tokenizer of a checkpoint in Hugging Face's layout: tokenizer.json, or else tokenizer.model.

    tokenizer_config.json says whether bos is added (with tokenizer.model: yes, unless it says no), generation_config
    or config.json which tokens end an answer. The template is BlueLM's where the vocabulary has its markers, or else
    the checkpoint's own chat_template, or else none.
    Raises CheckpointError, which names the file at fault.
    """
    folder = Folder(Path(path))
    vocabulary, bos_id = folder.vocabulary()
    eos_ids = folder.eos_ids(vocabulary)
    return Tokenizer(vocabulary, eos_ids=eos_ids, bos_id=bos_id, template=folder.template(vocabulary))

"""Messages -> prompt text. The only place that spells BlueLM's markers.

parts.py             what a prompt is made of, and what a template is
law.py               what a conversation is, and which of its turns are left out
bluelm_template.py   BlueLM's own format
jinja_template.py    the chat template that a checkpoint brings along
tools.py             tools in BlueLM's format
answers.py           reads BlueLM's calls as they come
exported.py          BlueLM's format as a Jinja template, for other programs

A prompt is a tuple of `Part`s: what a template wrote is trusted (its markers become marker tokens), what people, tools
or models wrote is not (its markers stay text). The tokenizer keeps that promise; here the two are only kept apart.
"""

from __future__ import annotations

from bluelm.prompt.answers import AnswerReader
from bluelm.prompt.bluelm_template import AI, END_OF_ANSWER, FUNCTION, HUMAN, SYSTEM, BlueLMTemplate
from bluelm.prompt.exported import jinja_source
from bluelm.prompt.jinja_template import JinjaTemplate
from bluelm.prompt.law import check_messages, fit_turns
from bluelm.prompt.parts import Part, Parts, PromptTemplate, plain, text_of

__all__ = [
    "AI",
    "END_OF_ANSWER",
    "FUNCTION",
    "HUMAN",
    "SYSTEM",
    "AnswerReader",
    "BlueLMTemplate",
    "JinjaTemplate",
    "Part",
    "Parts",
    "PromptTemplate",
    "check_messages",
    "fit_turns",
    "jinja_source",
    "plain",
    "text_of",
]

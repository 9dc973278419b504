"""BlueLM's own format as a Jinja chat template, for the programs that read an exported folder."""

from __future__ import annotations

import json

from bluelm.prompt.bluelm_template import AI, END_OF_ANSWER, FUNCTION, HUMAN, SYSTEM
from bluelm.prompt.tools import AFTER, BEFORE, SAID

_FLAT = """
{%- macro flat(schema) -%}
  {%- set properties = schema.properties or {} -%}
  {%- set required = schema.required or [] -%}
  {%- set known = schema | list | reject("in", SAID) | list -%}
  {%- set named = required | reject("in", properties) | list -%}
  {%- set closed = schema.additionalProperties in [False, properties | length > 0] -%}
  {%- if not known and not named and (schema.additionalProperties is not defined or closed)
        and (schema.type is not defined or schema.type == "object") -%}yes{%- endif -%}
{%- endmacro -%}
{%- macro described(told) -%}
  {%- set ns = namespace(more={}) -%}
  {%- if told is mapping -%}
    {%- for key, value in told.items() if key not in ["description", "title"] -%}
      {%- set ns.more = dict(ns.more, **{key: value}) -%}
    {%- endfor -%}
    {%- set words, plain = told.description or "", not ns.more or ns.more == {"type": "string"} -%}
    {{- words if plain else (words ~ " " ~ (ns.more | tojson)) | trim -}}
  {%- else -%}
    {{- "" if told is true else told | tojson -}}
  {%- endif -%}
{%- endmacro -%}
"""

_TOOLS = """
{%- if tools -%}
  {{- SYSTEM ~ BEFORE -}}
  {%- for tool in tools -%}
    {%- set told = tool.function if tool.function is defined else tool -%}
    {%- set ns = namespace(schema={}, list=[]) -%}
    {%- for key, value in (told.parameters or {}).items() -%}
      {%- if not (key == "description" and value == (told.description or "")) -%}
        {%- set ns.schema = dict(ns.schema, **{key: value}) -%}
      {%- endif -%}
    {%- endfor -%}
    {%- if flat(ns.schema) -%}
      {%- for name, property in (ns.schema.properties or {}).items() -%}
        {%- set needed = (name in (ns.schema.required or [])) | string -%}
        {%- set ns.list = ns.list + [{"name": name, "description": described(property), "required": needed}] -%}
      {%- endfor -%}
    {%- endif -%}
    {%- set parameters = ns.list if flat(ns.schema) else ns.schema -%}
    {{- "- " ~ {"name": told.name, "description": told.description or "", "parameters": parameters} ~ "\\n" -}}
  {%- endfor -%}
  {{- AFTER -}}
{%- endif -%}
"""

_NO_TOOLS = """
{%- if tools -%}
  {{- raise_exception("This model was not trained to call tools: describe them in the messages.") -}}
{%- endif -%}
"""

_MESSAGES = """
{%- set turn = namespace(last="") -%}
{%- for message in messages -%}
  {%- set content = message.content or "" -%}
  {%- if content is not string -%}{{- raise_exception("The content of a message can only be text.") -}}{%- endif -%}
  {%- if message.role == "system" -%}
    {%- if not loop.first -%}{{- raise_exception("A system message can only come first, once.") -}}{%- endif -%}
    {%- if content | trim -%}{{- SYSTEM ~ content -}}{%- endif -%}
  {%- elif message.role == "user" and turn.last in ["", "assistant"] -%}
    {{- HUMAN ~ content -}}
  {%- elif message.role == "assistant" and turn.last in ["user", "tool"] and message.tool_calls -%}
    TOOL_CALLS
  {%- elif message.role == "assistant" and turn.last in ["user", "tool"] -%}
    {{- AI ~ content ~ END -}}
  {%- elif message.role == "tool" and turn.last in ["calls", "tool"] -%}
    {{- FUNCTION ~ content -}}
  {%- else -%}
    {{- raise_exception("User and assistant take turns, and calls of tools need their results first.") -}}
  {%- endif -%}
  {%- if message.role != "system" -%}
    {%- set turn.last = "calls" if message.tool_calls else message.role -%}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- AI -}}{%- endif -%}
"""

_CALLS = """{{- AI ~ '{"answer": ' ~ ((content or none) | tojson) ~ ', "function_calls": [' -}}
    {%- for call in message.tool_calls -%}
      {%- set called = call.function if call.function is defined else call -%}
      {%- set given = called.arguments if called.arguments is string else called.arguments | tojson -%}
      {{- '{"name": ' ~ (called.name | tojson) ~ ', "parameters": ' ~ given ~ "}" ~ ("" if loop.last else ", ") -}}
    {%- endfor -%}
    {{- "]}" ~ END -}}"""


def jinja_source(*, bos: bool, tools: bool) -> str:
    """The template, as transformers and vLLM read it: the same text as BlueLMTemplate gives.

    bos: whether it begins with the beginning-of-sequence token, since nobody else puts it there. tools: whether the
    checkpoint was trained to call them. Results of tools are taken in the order in which they come.
    """
    names: dict[str, str | list[str]] = {
        "HUMAN": HUMAN,
        "AI": AI,
        "SYSTEM": SYSTEM,
        "FUNCTION": FUNCTION,
        "END": END_OF_ANSWER,
    }
    if tools:
        names |= {"BEFORE": BEFORE, "AFTER": AFTER, "SAID": sorted(SAID)}
    told = "".join(f"{{%- set {name} = {json.dumps(said, ensure_ascii=False)} -%}}\n" for name, said in names.items())
    calls = _CALLS if tools else '{{- raise_exception("This model was not trained to call tools.") -}}'
    parts = (_FLAT + _TOOLS) if tools else _NO_TOOLS
    start = "{{- bos_token -}}" if bos else ""
    return told + start + parts + _MESSAGES.replace("TOOL_CALLS", calls)

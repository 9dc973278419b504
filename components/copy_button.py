"""A button that copies a text as it was written. Streamlit has one for code blocks only."""

from __future__ import annotations

import streamlit as st

from components.i18n import tell

__all__ = ["draw"]

CSS = """
button { all: unset; box-sizing: border-box; display: inline-flex; align-items: center; justify-content: center;
  width: 2rem; height: 2rem; border-radius: 0.5rem; cursor: pointer; color: inherit; opacity: 0.65; }
button:hover { opacity: 1; background: rgba(128, 138, 160, 0.15); }
button:focus-visible { opacity: 1; outline: 2px solid var(--st-primary-color); }
@media (pointer: coarse) { button { width: 2.75rem; height: 2.75rem; } }
svg { width: 1.1rem; height: 1.1rem; fill: none; stroke: currentColor; stroke-width: 1.8; stroke-linecap: round; }
"""
JS = """
const SHEETS = '<rect x="9" y="9" width="11" height="11" rx="2"/><path d="M5 15V6a2 2 0 0 1 2-2h8"/>';
const TICK = '<path d="M5 13l4 4L19 7"/>';
export default function ({ parentElement, data }) {
  const button = parentElement.querySelector('button');
  const draw = (drawing, label) => {
    button.innerHTML = `<svg viewBox="0 0 24 24" aria-hidden="true">${drawing}</svg>`;
    button.setAttribute('aria-label', label);
    button.title = label;
  };
  draw(SHEETS, data.label);
  button.onclick = async () => {
    try {
      await navigator.clipboard.writeText(data.text);
      draw(TICK, data.done);
      setTimeout(() => draw(SHEETS, data.label), 1500);
    } catch (error) {
      button.title = String(error);
    }
  };
}
"""

_button = st.components.v2.component(
    "bluelm_copy", html='<button type="button"></button>', css=CSS, js=JS, isolate_styles=True
)


def draw(text: str, key: str) -> None:
    """key: unique on the page."""
    _button(data={"text": text, "label": tell("copy"), "done": tell("copied")}, key=key, width="content")

"""The little that the theme in .streamlit/config.toml cannot say."""

from __future__ import annotations

import streamlit as st

CSS = """
<style>
.said { white-space: pre-wrap; overflow-wrap: anywhere; }
.st-key-draft_window { max-height: 60vh; overflow-y: auto; /* and what it shows of a long text is its end: */
  flex-direction: column-reverse !important; justify-content: flex-start !important; }
.st-key-draft_window > * { flex-shrink: 0; }
.draft { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.7; }
.draft mark { background: rgba(76, 127, 255, 0.16); color: inherit; border-radius: 0.2rem; padding: 0.1rem 0;
  -webkit-box-decoration-break: clone; box-decoration-break: clone; }
.caret { display: inline-block; width: 0.5rem; height: 1.05em; margin-left: 0.1rem; vertical-align: text-bottom;
  background: rgba(76, 127, 255, 0.85); border-radius: 0.1rem; animation: caret 1.1s step-end infinite; }
@keyframes caret { 50% { opacity: 0; } }
@media (prefers-reduced-motion: reduce) { .caret { animation: none; } }
[data-testid="stBottomBlockContainer"] { padding-bottom: 1.5rem; }
.st-key-welcome { padding-top: 14vh; }
.st-key-welcome h2 { font-size: 1.75rem; padding-top: 0; }
div:has(> .st-key-habits) { display: none; }
[data-testid="stSidebarCollapseButton"] { visibility: visible !important; } /* not only for those who point there */
[data-testid="stAppScrollToBottomContainer"]:focus-visible { box-shadow: inset 0 0 0 2px rgba(76, 127, 255, 0.85); }
/* Colours that everybody can read. */
[data-testid="stCaptionContainer"], [data-testid="stCaptionContainer"] p {
  color: light-dark(#586074, #a3abba); opacity: 1; }
button[kind^="primary"], button[kind^="primary"] p { color: light-dark(#ffffff, #0b1020); }
.stCode .token { color: light-dark(#4b5568, #a8b3c7); }
.stCode .token:is(.keyword, .selector, .important, .atrule, .tag) { color: light-dark(#0a5fc2, #7fb0ff); }
.stCode .token:is(.function, .class-name) { color: light-dark(#1449b8, #9cc2ff); }
.stCode .token:is(.string, .char, .attr-value, .inserted, .url, .builtin) { color: light-dark(#0b7a3b, #6ed18f); }
.stCode .token:is(.number, .regex, .boolean, .constant, .symbol) { color: light-dark(#0b6e75, #62d3d3); }
.stCode .token:is(.comment, .prolog, .doctype, .cdata) { color: light-dark(#5f6b80, #93a0b8); }
.stCode .token:is(.operator, .deleted, .entity) { color: light-dark(#9a4a00, #ffb27a); }
/* The sidebar's foot stands at its bottom. */
[data-testid="stSidebarContent"], [data-testid="stSidebarUserContent"], [data-testid="stSidebarUserContent"] > div {
  display: flex; flex-direction: column; }
[data-testid="stSidebarUserContent"], [data-testid="stSidebarUserContent"] > div,
[data-testid="stSidebarUserContent"] > div > [data-testid="stVerticalBlock"] { flex: 1 0 auto; }
[data-testid="stSidebarUserContent"] { padding-bottom: 1.5rem; }
div:has(> .st-key-sidebar_foot) { margin-top: auto; }
.stChatMessage h1 { font-size: 1.5rem; }
.stChatMessage h2 { font-size: 1.3rem; }
.stChatMessage h3 { font-size: 1.1rem; }
.stChatMessage [data-testid="stMarkdownContainer"] { overflow-wrap: anywhere; }
.stChatMessage [data-testid="stHeaderActionElements"] { display: none; } /* links to a model's headings lead nowhere */
.stChatMessage table { display: block; overflow-x: auto; }
/* Buttons that show their icon alone keep their name for screen readers. */
[class*="st-key-icon_"] button [data-testid="stMarkdownContainer"],
[class*="st-key-menu_"] button [data-testid="stMarkdownContainer"] {
  position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
[class*="st-key-icon_"] button, [class*="st-key-menu_"] button { padding: 0.25rem; min-height: 2rem; min-width: 2rem; }
[class*="st-key-menu_"] button > div > [aria-hidden] { display: none; } /* the arrow */
[class*="st-key-question_"] { align-items: flex-start; flex-wrap: nowrap; }
[class*="st-key-question_"] > [class*="st-key-actions_q"] { margin: -0.25rem 0; }
.stChatMessage > div > [data-testid="stVerticalBlock"] { gap: 0.5rem; }
[data-testid="stBottomBlockContainer"] [data-testid="stVerticalBlock"] { gap: 0.5rem; }
.st-key-chats { max-height: 45vh; overflow-y: auto; flex-wrap: nowrap; }
.st-key-chats > * { flex-shrink: 0; }
.st-key-chats_top { align-items: center; flex-wrap: nowrap; }
.st-key-undo_bar { padding: 0.25rem 0.5rem; flex-wrap: nowrap; }
[class*="st-key-actions_"] { min-height: 2rem; }
[class*="st-key-actions_a"] { margin-left: -0.4rem; }
[class*="st-key-actions_"] button { opacity: 0.65; }
[class*="st-key-actions_"] button:hover, [class*="st-key-actions_"] button:focus-visible { opacity: 1; }
/* The list of conversations: one line each, and its menu where one points, or always where nothing hovers. */
[class*="st-key-chat_"] { border-radius: 0.5rem; flex-wrap: nowrap; align-items: center; }
[class*="st-key-chat_"]:hover, [class*="st-key-chat_here_"] { background: rgba(128, 138, 160, 0.16); }
[class*="st-key-open_"] { min-width: 0; flex: 1; }
[class*="st-key-open_"] button { justify-content: flex-start; padding: 0.25rem 0.5rem; min-height: 2rem; }
[class*="st-key-open_"] button > div, [class*="st-key-open_"] button > div > span {
  width: 100%; min-width: 0; justify-content: flex-start; }
[class*="st-key-open_"] button p { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; text-align: left; }
@media (hover: hover) {
  [class*="st-key-chat_"] [class*="st-key-menu_"] button { opacity: 0; }
  [class*="st-key-chat_"]:hover [class*="st-key-menu_"] button,
  [class*="st-key-menu_"] button:focus-visible, [class*="st-key-menu_"] button[aria-expanded="true"] { opacity: 1; }
}
/* The parts of a long block that is still open look like one. */
[class*="st-key-parts_"] [data-testid="stElementContainer"]:not(:last-child) pre { border-bottom-left-radius: 0;
  border-bottom-right-radius: 0; padding-bottom: 0; }
[class*="st-key-parts_"] [data-testid="stElementContainer"]:not(:first-child) pre { border-top-left-radius: 0;
  border-top-right-radius: 0; padding-top: 0; }
@media (pointer: coarse) { /* fingers */
  [class*="st-key-icon_"] button, [class*="st-key-menu_"] button, [class*="st-key-open_"] button,
  [data-testid="stExpandSidebarButton"], [data-testid="stSidebarCollapseButton"] button {
    min-height: 2.75rem; min-width: 2.75rem; }
  .stCode button { min-height: 2.25rem; min-width: 2.25rem; }
}
@media (max-width: 640px) {
  [data-testid="stMainBlockContainer"] { padding: 3.75rem 1rem 1rem; }
  [data-testid="stBottomBlockContainer"] { padding: 0.5rem 1rem 1rem; }
  .stChatMessage { gap: 0; padding: 0.75rem; }
  .stChatMessage > [data-testid="stChatMessageAvatarCustom"] { display: none; } /* room for the text */
  .st-key-welcome { padding-top: 6vh; }
}
.chart_title { display: flex; justify-content: space-between; flex-wrap: wrap; font-size: 0.9rem; gap: 0 0.75rem; }
.facts_table { width: 100%; border-collapse: collapse; font-size: 0.9rem; }
.facts_table th, .facts_table td { padding: 0.35rem 0.5rem; border-bottom: 1px solid rgba(128, 138, 160, 0.25);
  text-align: left; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.facts_table th { font-weight: 500; opacity: 0.75; width: 40%; }
.st-key-status_figures > * { flex: 1 1 7rem; min-width: 7rem; }
.left_out { display: flex; align-items: center; gap: 0.75rem; font-size: 0.8rem; opacity: 0.7; }
.left_out::before, .left_out::after { content: ""; flex: 1; border-top: 1px dashed currentColor; }
.left_out span { max-width: 75%; text-align: center; }
[data-testid="stStatusWidget"] { display: none; } /* its Stop would end the page's look, not the answer */
</style>
"""


LARGE = """
<style>
html { font-size: 20px !important; }
@media (max-width: 640px) { html { font-size: 18px !important; } }
.st-key-welcome h2 { font-size: 2.25rem; }
.st-key-welcome button { min-height: 4rem; }
</style>
"""


def draw(*, large: bool = False) -> None:
    """Put the style on the page. large: for an audience."""
    st.html(CSS + LARGE if large else CSS)

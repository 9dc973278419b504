"""A conversation: what was said, in all its versions, and the answer in the making. Owned by the process, not a page.

told.py    how likely an answer's tokens were, as it is kept
tree.py    questions and answers, each with its versions; nothing is overwritten
turns.py   what a reader sees of it at one moment
live.py    a conversation that goes on: asks, follows, stops, and tells what is to be kept
title.py   a name for it from its first words
"""

from __future__ import annotations

from bluelm.conversation.live import Changes, Conversation
from bluelm.conversation.title import automatic_title, title_of
from bluelm.conversation.tree import Answer, Node, Question, Status, Tree
from bluelm.conversation.turns import Turn, Versions, View

__all__ = [
    "Answer",
    "Changes",
    "Conversation",
    "Node",
    "Question",
    "Status",
    "Tree",
    "Turn",
    "Versions",
    "View",
    "automatic_title",
    "title_of",
]

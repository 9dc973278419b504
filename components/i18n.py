"""Every word on the pages, in English and Chinese, and errors worded for readers from their code and details."""

from __future__ import annotations

from typing import Any, Literal

import streamlit as st

from bluelm.errors import BlueLMError

Language = Literal["en", "zh"]
LANGUAGES: dict[Language, str] = {"zh": "中文", "en": "English"}
KEY = "language"

STRINGS: dict[Language, dict[str, str]] = {
    "en": {
        "app": "BlueLM Chat",
        "page.chat": "Chat",
        "page.complete": "Complete",
        "input": "Message {model}",
        "input.loading": "The model is not ready yet",
        "input.busy": "Your message is back in the box: wait for the answer to end, or press Stop.",
        "stop": "Stop",
        "regenerate": "Regenerate",
        "retry": "Retry",
        "edit": "Edit",
        "undo": "Undo",
        "cancel": "Cancel",
        "complete": "Complete",
        "continue": "Continue",
        "new": "New chat",
        "new.text": "New text",
        "language": "Language",
        "thinking": "Thinking…",
        "hello": "What can I do for you?",
        "hello.sub": "Ask anything. Answers come from the model that you run yourself.",
        "hello.base": "How does it go on?",
        "hello.base.sub": "A base model follows no instructions: it goes on with a text. Show it a pattern, or begin a "
        "story.",
        "draft.text": "Text",
        "draft.text.empty": "Write the beginning of a text…",
        "draft.too_long": "This is too long: the text has {prompt_tokens} tokens and may get {max_length} more, but "
        "the model holds {window} in all. Shorten the text or lower max_length.",
        "demo": "This is **{model}**, a small demo model that speaks English only. For BlueLM, run "
        "`python download_model.py`, then start the app again.",
        "unknown": "That conversation is no longer here: the app was restarted, or it was too long ago. "
        "This is a new one.",
        "engine.loading": "Loading the model",
        "engine.loading.sub": "You can chat as soon as it is there; this page goes on by itself.",
        "engine.restarting": "The engine stopped and is starting again",
        "engine.restarting.sub": "What was said is kept. You can go on as soon as it is back.",
        "engine.down": "The model is not running",
        "engine.down.sub": "Look at the log of the app, cure the cause and start the app again.",
        "settings": "Settings",
        "settings.more": "More settings",
        "settings.reset": "Defaults",
        "settings.bad": "This setting cannot be used: {error}",
        "max_length": "max_length",
        "max_length.help": "New tokens at most in an answer: 1 to {limit} fit beside a prompt.",
        "temperature": "temperature",
        "temperature.help": "0 always takes the likeliest token; higher is more varied.",
        "top_p": "top_p",
        "top_p.help": "Draw from the likeliest tokens up to this share of probability; 1 is off.",
        "top_k": "top_k",
        "top_k.help": "Draw from this many of the likeliest tokens; 0 is off.",
        "repetition_penalty": "repetition_penalty",
        "repetition_penalty.help": "Above 1 makes tokens that were already used less likely; 1 is off.",
        "seed": "seed",
        "seed.help": "The same seed, prompt and settings give the same answer.",
        "seed.empty": "random",
        "stop_strings": "Stop strings",
        "stop_strings.help": "One a line, up to 16; \\n stands for a line break. The answer ends before any of them.",
        "system": "System prompt",
        "system.help": "Tells the model how to behave, before the first message.",
        "system.empty": "e.g. You are a helpful assistant.",
        "system.unheeded": "This model was not trained with system prompts; it may not heed one.",
        "context": "Context: {used} of {window} tokens",
        "model.facts": "{device} · {dtype} · {parameters} parameters · {context} tokens of context",
        "facts.token": "{n} token",
        "facts.tokens": "{n} tokens",
        "facts.ttft": "first token {s} s",
        "facts.rate": "{n} tokens/s",
        "facts.prompt": "prompt {n} tokens",
        "facts.prompt_cached": "prompt {n} tokens, {cached} cached",
        "facts.seed": "seed {n}",
        "end.stop": "finished",
        "end.stop_string": "ended at a stop string",
        "end.length": "reached max_length",
        "end.cancelled": "stopped",
        "mark.stopped": "Stopped by you",
        "mark.abandoned": "Stopped, because nobody was looking at this page",
        "mark.length": "Cut off: max_length is reached. Raise it in the sidebar to get longer answers.",
        "mark.empty": "The model answered nothing.",
        "mark.excluded": "This message is not sent along with later ones.",
        "mark.kept": "No new answer could be made, so this one stays.",
        "dropped": "The {n} oldest messages no longer fit in the context and were left out of this answer.",
        "error.context_length_exceeded": "This is too long: the message has {prompt_tokens} tokens and the answer may "
        "have {max_length}, but the model holds {window} in all. Shorten the message or lower max_length.",
        "error.queue_full": "Too many are asking right now ({waiting} wait). Try again in {retry_after} seconds.",
        "error.engine_loading": "The model is still loading ({progress}). Try again in some seconds.",
        "error.engine_died": "The engine stopped while it worked on this answer. It is starting again: press Retry in "
        "some seconds.",
        "error.engine_down": "The model is not running. Look at the log of the app and start it again.",
        "error.engine_unavailable": "No answer can be made at the moment. Try again in some seconds.",
        "error.generation_failed": "The engine could not go on with this answer. Press Retry, or change the message or "
        "the settings.",
        "error.out_of_memory": "The memory is not enough for this answer. Ask something shorter, or give the engine "
        "more memory (see the log of the app).",
        "error.invalid_parameter": "{param} is {value}, but must be {must}. Change it in the sidebar.",
        "error.unsupported_option": "{param} is not supported here. {remedy}",
        "error.wrong_model_kind": "This is a base model, which continues texts but cannot chat. Start the app with a "
        "chat model.",
        "error.conflict": "Another answer is still being made. Wait for it or stop it first.",
        "error.other": "Something went wrong: {message}",
    },
    "zh": {
        "app": "BlueLM Chat",
        "page.chat": "对话",
        "page.complete": "续写",
        "input": "给 {model} 发消息",
        "input.loading": "模型尚未就绪",
        "input.busy": "消息已放回输入框：请等回答结束，或先点“停止”。",
        "stop": "停止",
        "regenerate": "重新生成",
        "retry": "重试",
        "edit": "修改",
        "undo": "撤销",
        "cancel": "取消",
        "complete": "续写",
        "continue": "继续",
        "new": "新对话",
        "new.text": "新文本",
        "language": "语言",
        "thinking": "正在思考…",
        "hello": "有什么可以帮你？",
        "hello.sub": "想问什么都可以，回答来自你自己运行的模型。",
        "hello.base": "接下来怎么写？",
        "hello.base.sub": "基座模型不听指令，只会接着写：给它几个例子，或者一个故事的开头。",
        "draft.text": "文本",
        "draft.text.empty": "写下一段开头…",
        "draft.too_long": "内容太长：文本有 {prompt_tokens} 个 token，还要续写最多 {max_length} 个，"
        "而模型总共只能容纳 {window} 个。请缩短文本或调小 max_length。",
        "demo": "当前是演示用的小模型 **{model}**，只会英文。"
        "要用 BlueLM，请运行 `python download_model.py`，然后重新启动应用。",
        "unknown": "找不到那段对话：应用重启过，或时间已太久。这是一段新的对话。",
        "engine.loading": "正在加载模型",
        "engine.loading.sub": "加载完成即可对话，页面会自动更新。",
        "engine.restarting": "推理引擎意外停止，正在重新启动",
        "engine.restarting.sub": "已有的对话都在，恢复后可以继续。",
        "engine.down": "模型没有在运行",
        "engine.down.sub": "请查看应用日志，排除原因后重新启动应用。",
        "settings": "设置",
        "settings.more": "更多设置",
        "settings.reset": "恢复默认",
        "settings.bad": "该设置无法使用：{error}",
        "max_length": "最大生成长度 max_length",
        "max_length.help": "一次回答最多生成的新 token 数：与提示词一起，可设 1 到 {limit}。",
        "temperature": "温度 temperature",
        "temperature.help": "0 表示每次都取最可能的 token；越大越多样。",
        "top_p": "核采样 top_p",
        "top_p.help": "只从累计概率达到该值的最可能 token 中采样；1 为关闭。",
        "top_k": "top_k",
        "top_k.help": "只从最可能的若干个 token 中采样；0 为关闭。",
        "repetition_penalty": "重复惩罚 repetition_penalty",
        "repetition_penalty.help": "大于 1 时，已出现过的 token 更不容易再出现；1 为关闭。",
        "seed": "随机种子 seed",
        "seed.help": "种子、提示词和设置都相同，回答就相同。",
        "seed.empty": "随机",
        "stop_strings": "停止词",
        "stop_strings.help": "每行一个，最多 16 个；\\n 表示换行。回答会在遇到其中任何一个之前结束。",
        "system": "系统提示词",
        "system.help": "在第一条消息之前告诉模型该如何表现。",
        "system.empty": "例如：你是一个乐于助人的助手。",
        "system.unheeded": "该模型没有用系统提示词训练过，不一定会遵从。",
        "context": "上下文：已用 {used} / {window} token",
        "model.facts": "{device} · {dtype} · {parameters} 参数 · 上下文 {context} token",
        "facts.token": "{n} token",
        "facts.tokens": "{n} token",
        "facts.ttft": "首 token {s} 秒",
        "facts.rate": "{n} token/秒",
        "facts.prompt": "提示词 {n} token",
        "facts.prompt_cached": "提示词 {n} token（{cached} 来自缓存）",
        "facts.seed": "种子 {n}",
        "end.stop": "正常结束",
        "end.stop_string": "遇到停止词",
        "end.length": "达到最大长度",
        "end.cancelled": "已停止",
        "mark.stopped": "已由你停止",
        "mark.abandoned": "因无人查看此页面而停止",
        "mark.length": "回答被截断：已达到 max_length。想要更长的回答，请在侧边栏调大。",
        "mark.empty": "模型没有给出内容。",
        "mark.excluded": "这条消息不会随后续消息一起发送。",
        "mark.kept": "未能生成新的回答，保留原回答。",
        "dropped": "最早的 {n} 条消息已放不进上下文，本次回答没有用到它们。",
        "error.context_length_exceeded": "内容太长：消息有 {prompt_tokens} 个 token，回答最多 {max_length} 个，"
        "而模型总共只能容纳 {window} 个。请缩短消息或调小 max_length。",
        "error.queue_full": "现在提问的人太多（{waiting} 个在排队），请 {retry_after} 秒后再试。",
        "error.engine_loading": "模型仍在加载（{progress}），请过几秒再试。",
        "error.engine_died": "推理引擎在生成这次回答时停止了，正在重新启动：请过几秒点“重试”。",
        "error.engine_down": "模型没有在运行。请查看应用日志并重新启动应用。",
        "error.engine_unavailable": "暂时无法回答，请过几秒再试。",
        "error.generation_failed": "引擎无法继续这次回答。请点“重试”，或修改消息或设置。",
        "error.out_of_memory": "显存不足，无法完成这次回答：请缩短内容，或为引擎留出更多显存（见应用日志）。",
        "error.invalid_parameter": "{param} 的值 {value} 无效（要求：{must}），请在侧边栏修改。",
        "error.unsupported_option": "这里不支持 {param}。{remedy}",
        "error.wrong_model_kind": "这是基座模型，只会续写，不能对话。请换用对话模型启动应用。",
        "error.conflict": "另一个回答还在生成，请等它结束或先停止。",
        "error.other": "出错了：{message}",
    },
}

STARTERS: dict[Language, tuple[tuple[str, str], ...]] = {
    "en": (
        (":material/lightbulb:", "Explain simply why the sky is blue"),
        (":material/code:", "Write a Python function that reverses a string"),
        (":material/mail:", "Draft an email that moves a meeting"),
        (":material/travel_explore:", "What is the capital of France known for?"),
    ),
    "zh": (
        (":material/lightbulb:", "通俗地解释天空为什么是蓝色"),
        (":material/code:", "写一个反转字符串的 Python 函数"),
        (":material/mail:", "写一封改期会议的简短邮件"),
        (":material/travel_explore:", "杭州有哪些值得一看的地方？"),
    ),
}


PROMPTS: dict[Language, tuple[tuple[str, str, str], ...]] = {
    "en": (
        (
            ":material/menu_book:",
            "Books and authors",
            "Pride and Prejudice -> Jane Austen\nMoby-Dick -> Herman Melville\nWar and Peace ->",
        ),
        (
            ":material/translate:",
            "Translate",
            "English: Good morning\nFrench: Bonjour\n\nEnglish: Thank you\nFrench: Merci\n\n"
            "English: See you tomorrow\nFrench:",
        ),
        (
            ":material/thumbs_up_down:",
            "Good or bad",
            "Review: The screen is bright and sharp.\nMood: good\n\nReview: It broke after two days.\nMood: bad\n\n"
            "Review: It came quickly and well packed.\nMood:",
        ),
        (":material/auto_stories:", "A story", "Once upon a time, in a village by the sea, there lived"),
    ),
    "zh": (
        (":material/menu_book:", "书与作者", "儒林外史->吴敬梓\n隋唐演义->褚人获\n红楼梦->"),
        (
            ":material/translate:",
            "翻译",
            "英文：Good morning\n中文：早上好\n\n英文：Thank you\n中文：谢谢\n\n英文：See you tomorrow\n中文：",
        ),
        (
            ":material/thumbs_up_down:",
            "好评差评",
            "评论：屏幕清晰，颜色也好看。\n情感：好\n\n评论：用了两天就坏了。\n情感：差\n\n评论：物流很快，包装仔细。\n情感：",
        ),
        (":material/auto_stories:", "讲故事", "从前有座山，山里有座庙，庙里有个"),
    ),
}


def language() -> Language:
    """The reader's language: what they chose in this session, else their browser's, else English."""
    if st.session_state.get(KEY) not in LANGUAGES:
        st.session_state[KEY] = "zh" if (st.context.locale or "").lower().startswith("zh") else "en"
    chosen: Language = st.session_state[KEY]
    return chosen


def word(key: str, to: Language, /, **values: Any) -> str:
    """The text of `key` in one language, `values` filled in."""
    return STRINGS[to][key].format(**values)


def tell(key: str, /, **values: Any) -> str:
    """The text of `key` in the reader's language."""
    return word(key, language(), **values)


def explain(error: BlueLMError, to: Language | None = None) -> str:
    """What went wrong and what to do about it, in the reader's language."""
    to = to or language()
    values = {"message": error.message, "param": error.param, **error.details}
    if isinstance(values.get("progress"), float):
        values["progress"] = f"{values['progress']:.0%}"
    try:
        return word(f"error.{error.code}", to, **values)
    except KeyError:  # a kind without a wording of its own, or one that came without its details
        return word("error.other", to, message=error.message)

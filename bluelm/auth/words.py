"""The words of the pages to sign in and out, in both languages."""

from __future__ import annotations

WORDS: dict[str, dict[str, str]] = {
    "en": {
        "app": "BlueLM Chat",
        "sign_in": "Sign in",
        "passcode": "Passcode",
        "hint": "Whoever runs this server can tell you the passcode.",
        "wrong": "This is not the passcode.",
        "wait": "Too many wrong passcodes: try again in {seconds} seconds.",
        "foreign": "The server does not know {origin} as an address of its own. If it is: whoever runs the server sets "
        "BLUELM_PUBLIC_URL to it and starts again. If not: another site sent you here.",
        "sign_out": "Sign out",
        "sign_out.sub": "This browser needs the passcode again then. Its conversations stay saved.",
        "back": "Back",
        "shut": "Not open here",
        "other": "中文",
    },
    "zh": {
        "app": "BlueLM Chat",
        "sign_in": "登录",
        "passcode": "口令",
        "hint": "请向运行此服务的人索取口令。",
        "wrong": "口令不正确。",
        "wait": "口令错误次数过多，请在 {seconds} 秒后再试。",
        "foreign": "服务器不认识 {origin} 这个地址。如果这确实是它的地址，请运行服务的人将 BLUELM_PUBLIC_URL "
        "设为该地址并重新启动；否则，是其他网站把您带到了这里。",
        "sign_out": "退出登录",
        "sign_out.sub": "退出后，此浏览器需要重新输入口令。已保存的对话会保留。",
        "back": "返回",
        "shut": "此处未开放",
        "other": "English",
    },
}


def language(accepted: str, asked: str = "") -> str:
    """ "zh" or "en": what was asked for, else what the browser prefers (Accept-Language), else English."""
    if asked in WORDS:
        return asked
    for part in accepted.split(","):
        name = part.split(";")[0].strip().lower()[:2]
        if name in WORDS:
            return name
    return "en"

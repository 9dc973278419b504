"""The tables, as steps: a file of an older app goes through those it has not seen. Never change one that was released.

`messages` is a tree: `parent` is the message before it. Texts are found by three-letter pieces (FTS5's trigram
tokenizer), which serve Chinese as well; an answer is indexed once it has ended, since it is written many times before.
"""

from __future__ import annotations

MIGRATIONS = (
    """
    CREATE TABLE conversations (
        id TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        plain INTEGER NOT NULL,
        title TEXT NOT NULL,
        named INTEGER NOT NULL DEFAULT 0,  -- by a person; else the title follows the first question
        pinned INTEGER NOT NULL DEFAULT 0,
        created REAL NOT NULL,
        updated REAL NOT NULL,
        leaf INTEGER,                      -- the last answer of the path that is shown
        shared TEXT UNIQUE,                -- whoever has this word may read it
        deleted REAL                       -- when; rubbed out some time later
    ) WITHOUT ROWID;
    CREATE INDEX conversations_by_owner ON conversations (owner, plain, pinned DESC, updated DESC)
        WHERE deleted IS NULL AND leaf IS NOT NULL;
    CREATE INDEX conversations_deleted ON conversations (deleted) WHERE deleted IS NOT NULL;

    CREATE TABLE messages (
        number INTEGER PRIMARY KEY,
        conversation TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
        id INTEGER NOT NULL,
        parent INTEGER,
        role TEXT NOT NULL,
        content TEXT NOT NULL,
        state TEXT NOT NULL,
        settings TEXT,        -- JSON: SamplingParams and the system prompt
        usage TEXT,           -- JSON: Usage
        facts TEXT,           -- JSON: tokens of the prompt and the window, what fell out, what it continues, its error
        finish_reason TEXT,
        model TEXT NOT NULL DEFAULT '',
        created REAL NOT NULL,
        UNIQUE (conversation, id)
    );
    CREATE INDEX messages_open ON messages (state) WHERE state IN ('asking', 'running');

    CREATE VIRTUAL TABLE texts USING fts5(content, content='messages', content_rowid='number', tokenize='trigram');
    CREATE TRIGGER messages_written AFTER INSERT ON messages WHEN new.state NOT IN ('asking', 'running') BEGIN
        INSERT INTO texts (rowid, content) VALUES (new.number, new.content);
    END;
    CREATE TRIGGER messages_ended AFTER UPDATE ON messages
        WHEN old.state IN ('asking', 'running') AND new.state NOT IN ('asking', 'running') BEGIN
        INSERT INTO texts (rowid, content) VALUES (new.number, new.content);
    END;
    CREATE TRIGGER messages_changed AFTER UPDATE OF content ON messages
        WHEN old.state NOT IN ('asking', 'running') AND old.content <> new.content BEGIN
        INSERT INTO texts (texts, rowid, content) VALUES ('delete', old.number, old.content);
        INSERT INTO texts (rowid, content) VALUES (new.number, new.content);
    END;
    CREATE TRIGGER messages_removed AFTER DELETE ON messages WHEN old.state NOT IN ('asking', 'running') BEGIN
        INSERT INTO texts (texts, rowid, content) VALUES ('delete', old.number, old.content);
    END;

    CREATE TABLE presets (
        owner TEXT NOT NULL,
        name TEXT NOT NULL,
        settings TEXT NOT NULL,  -- JSON: SamplingParams and the system prompt
        created REAL NOT NULL,
        PRIMARY KEY (owner, name)
    ) WITHOUT ROWID;
    CREATE TABLE prompts (
        owner TEXT NOT NULL,
        name TEXT NOT NULL,
        text TEXT NOT NULL,
        created REAL NOT NULL,
        PRIMARY KEY (owner, name)
    ) WITHOUT ROWID;
    CREATE TABLE preferences (
        owner TEXT NOT NULL,
        name TEXT NOT NULL,
        value TEXT NOT NULL,
        PRIMARY KEY (owner, name)
    ) WITHOUT ROWID
    """,
    "ALTER TABLE messages ADD COLUMN tokens TEXT",  # JSON: how likely an answer's tokens were (conversation/told.py)
)

RECOVERY = "UPDATE messages SET state = 'interrupted' WHERE state IN ('asking', 'running')"

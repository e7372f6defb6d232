"""The tables of the calls. Sums of money are kept by triggers, so that no change of a call can forget them."""

from __future__ import annotations

CALLS_SCHEMA = """
CREATE TABLE IF NOT EXISTS call_owners (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, lease REAL NOT NULL);
CREATE TABLE IF NOT EXISTS call_batches (
    id INTEGER PRIMARY KEY,
    batch_id TEXT UNIQUE,      -- the provider's; null from the moment before it is asked for until it is known
    model TEXT NOT NULL, simulated INTEGER NOT NULL, requests INTEGER NOT NULL,
    owner INTEGER NOT NULL, created REAL NOT NULL, ended REAL
);
CREATE TABLE IF NOT EXISTS calls (
    seq INTEGER PRIMARY KEY,
    key BLOB NOT NULL,
    simulated INTEGER NOT NULL, -- an offline stand-in's answer never passes for a model's
    stage TEXT NOT NULL, slot TEXT NOT NULL, attempt INTEGER NOT NULL, role TEXT NOT NULL,
    provider TEXT NOT NULL, model TEXT NOT NULL,
    body BLOB NOT NULL,         -- JSON, zlib
    state TEXT NOT NULL CHECK (state IN ('reserved', 'sent', 'answered', 'failed', 'uncertain')),
    owner INTEGER REFERENCES call_owners(id),
    batch INTEGER REFERENCES call_batches(id),
    tries INTEGER NOT NULL DEFAULT 0,
    held_nano INTEGER NOT NULL DEFAULT 0,  -- reserved: the most it may cost
    lost_nano INTEGER NOT NULL DEFAULT 0,  -- charged for tries whose answer never reached us
    cost_nano INTEGER NOT NULL DEFAULT 0,  -- from the usage of the answer
    lost INTEGER NOT NULL DEFAULT 0,       -- how many such tries
    status INTEGER, request_id TEXT, response BLOB,  -- raw bytes, zlib
    settled INTEGER NOT NULL DEFAULT 0,    -- the answer has been read and its cost is known
    stop_reason TEXT, refusal TEXT, reason TEXT, detail TEXT,
    input_tokens INTEGER, output_tokens INTEGER, thinking_tokens INTEGER, cache_write_tokens INTEGER, cache_read_tokens INTEGER,
    price_date TEXT, created REAL NOT NULL, ended REAL,
    UNIQUE (key, simulated)
);
CREATE INDEX IF NOT EXISTS calls_by_stage ON calls (stage, state, seq);
CREATE INDEX IF NOT EXISTS calls_held ON calls (owner) WHERE owner IS NOT NULL;
CREATE INDEX IF NOT EXISTS calls_unsettled ON calls (seq) WHERE state = 'answered' AND settled = 0;
CREATE INDEX IF NOT EXISTS calls_by_batch ON calls (batch) WHERE batch IS NOT NULL;
CREATE TABLE IF NOT EXISTS call_spend (simulated INTEGER PRIMARY KEY, held_nano INTEGER NOT NULL, spent_nano INTEGER NOT NULL);
INSERT OR IGNORE INTO call_spend VALUES (0, 0, 0), (1, 0, 0);
CREATE TRIGGER IF NOT EXISTS call_spend_insert AFTER INSERT ON calls BEGIN
    UPDATE call_spend SET held_nano = held_nano + NEW.held_nano, spent_nano = spent_nano + NEW.lost_nano + NEW.cost_nano
    WHERE simulated = NEW.simulated;
END;
CREATE TRIGGER IF NOT EXISTS call_spend_update AFTER UPDATE OF held_nano, lost_nano, cost_nano ON calls BEGIN
    UPDATE call_spend SET held_nano = held_nano + NEW.held_nano - OLD.held_nano,
        spent_nano = spent_nano + NEW.lost_nano + NEW.cost_nano - OLD.lost_nano - OLD.cost_nano
    WHERE simulated = NEW.simulated;
END;
CREATE TRIGGER IF NOT EXISTS call_spend_delete AFTER DELETE ON calls BEGIN
    UPDATE call_spend SET held_nano = held_nano - OLD.held_nano, spent_nano = spent_nano - OLD.lost_nano - OLD.cost_nano
    WHERE simulated = OLD.simulated;
END;
"""

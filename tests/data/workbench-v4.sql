-- A workbench of schema version 4, as `curate import` of three rows (one of them broken) left it; both rows were pushed to Argilla.
BEGIN TRANSACTION;
CREATE TABLE answers (
  response TEXT NOT NULL, updated TEXT NOT NULL, seq INTEGER NOT NULL, user TEXT NOT NULL, status TEXT NOT NULL, body TEXT NOT NULL,
  payload TEXT NOT NULL, form TEXT NOT NULL, simulated INTEGER NOT NULL, run INTEGER NOT NULL, PRIMARY KEY (response, updated)
) WITHOUT ROWID;
CREATE TABLE asks (
  stage TEXT NOT NULL, slot TEXT NOT NULL, attempt INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (stage, slot, attempt)
) WITHOUT ROWID;
CREATE TABLE call_batches (
    id INTEGER PRIMARY KEY,
    batch_id TEXT UNIQUE,      -- the provider's; null from the moment before it is asked for until it is known
    model TEXT NOT NULL, simulated INTEGER NOT NULL, requests INTEGER NOT NULL,
    owner INTEGER NOT NULL, created REAL NOT NULL, ended REAL
);
CREATE TABLE call_owners (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, lease REAL NOT NULL);
CREATE TABLE call_spend (simulated INTEGER PRIMARY KEY, held_nano INTEGER NOT NULL, spent_nano INTEGER NOT NULL);
INSERT INTO "call_spend" VALUES(0,0,0);
INSERT INTO "call_spend" VALUES(1,0,0);
CREATE TABLE calls (
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
CREATE TABLE cells (cell TEXT PRIMARY KEY, kind TEXT NOT NULL, ordinal INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE choices (
  seq INTEGER NOT NULL, digest TEXT NOT NULL, shown TEXT NOT NULL, winner INTEGER, rationale TEXT,
  call TEXT, run INTEGER NOT NULL, PRIMARY KEY (seq, digest, shown)
) WITHOUT ROWID;
CREATE TABLE failures (
  stage TEXT NOT NULL, slot TEXT NOT NULL, call TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL, detail TEXT, run INTEGER NOT NULL,
  PRIMARY KEY (stage, slot, call)
) WITHOUT ROWID;
INSERT INTO "failures" VALUES('import','rows.jsonl:3','7afa0bd8e68a518ea17a70e7fa20d8404a8fcd90d8f58ad7ba4c1daf07634589','row','completion: is missing; prompt-completion rows have prompt, completion: {"prompt":"broken"}',1);
CREATE TABLE findings (
  run INTEGER NOT NULL, seq INTEGER NOT NULL, stage TEXT NOT NULL, kind TEXT NOT NULL, drops INTEGER NOT NULL,
  twin INTEGER, item TEXT, score REAL, evidence TEXT
);
CREATE TABLE locks (name TEXT PRIMARY KEY, owner TEXT NOT NULL, heartbeat REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "meta" VALUES('created','{"at": "2026-11-25T12:55:12+00:00"}');
INSERT INTO "meta" VALUES('schema','4');
CREATE TABLE origins (
  origin INTEGER PRIMARY KEY, seq INTEGER NOT NULL REFERENCES records, how TEXT NOT NULL, role TEXT NOT NULL,
  source TEXT NOT NULL, item INTEGER NOT NULL, part INTEGER NOT NULL DEFAULT 0,
  cell TEXT, better INTEGER, parent INTEGER, seed_group TEXT, raw BLOB, run INTEGER NOT NULL,
  UNIQUE (how, source, item, part)
);
INSERT INTO "origins" VALUES(1,1,'imported','row','7afa0bd8e68a518ea17a70e7fa20d8404a8fcd90d8f58ad7ba4c1daf07634589',1,0,NULL,NULL,NULL,NULL,NULL,1);
INSERT INTO "origins" VALUES(2,2,'imported','row','7afa0bd8e68a518ea17a70e7fa20d8404a8fcd90d8f58ad7ba4c1daf07634589',2,0,NULL,NULL,NULL,NULL,NULL,1);
CREATE TABLE overrides (
  override INTEGER PRIMARY KEY, seq INTEGER NOT NULL, action TEXT NOT NULL, reason TEXT NOT NULL, by TEXT NOT NULL, at TEXT NOT NULL
);
CREATE TABLE pushed (
  seq INTEGER NOT NULL, dataset TEXT NOT NULL, payload TEXT NOT NULL, at TEXT NOT NULL, PRIMARY KEY (seq, dataset)
) WITHOUT ROWID;
INSERT INTO "pushed" VALUES(1,'sums-instruction','0123456789abcdef','2026-11-20T10:00:00+00:00');
INSERT INTO "pushed" VALUES(2,'sums-instruction','fedcba9876543210','2026-11-20T10:00:00+00:00');
CREATE TABLE records (
  seq INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, kind TEXT NOT NULL, label TEXT, body BLOB,
  erased TEXT                       -- reason and time; the body is then gone
);
INSERT INTO "records" VALUES(1,X'98452E4FC8329F6828E3A7527E73812213D864998BA1593D29550DB7C611C8EF','instruction',NULL,X'7B226B696E64223A22696E737472756374696F6E222C2270726F6D7074223A5B7B22726F6C65223A2275736572222C22636F6E74656E74223A22576861742069732032202B20323F227D5D2C22636F6D706C6574696F6E223A7B22726F6C65223A22617373697374616E74222C22636F6E74656E74223A2234227D2C226C6162656C223A6E756C6C7D',NULL);
INSERT INTO "records" VALUES(2,X'5CF401720E2DD5548668C7BF6E771320E398FCAF8D50877C91C40277F64EF6C2','instruction',NULL,X'7B226B696E64223A22696E737472756374696F6E222C2270726F6D7074223A5B7B22726F6C65223A2275736572222C22636F6E74656E74223A22576861742069732033202B20333F227D5D2C22636F6D706C6574696F6E223A7B22726F6C65223A22617373697374616E74222C22636F6E74656E74223A2236227D2C226C6162656C223A6E756C6C7D',NULL);
CREATE TABLE runs (
  run INTEGER PRIMARY KEY, stage TEXT NOT NULL, digest TEXT NOT NULL, watermark INTEGER NOT NULL,
  started TEXT NOT NULL, ended TEXT, state TEXT NOT NULL, rows_in INTEGER, rows_out INTEGER, seconds REAL, detail TEXT
);
INSERT INTO "runs" VALUES(1,'import','7afa0bd8e68a518ea17a70e7fa20d8404a8fcd90d8f58ad7ba4c1daf07634589',0,'2026-11-25T12:55:12+00:00','2026-11-25T12:55:12+00:00','done',3,2,0.001,'{"file": "rows.jsonl", "failed": 1}');
CREATE TABLE scores (
  seq INTEGER NOT NULL, digest TEXT NOT NULL, criterion TEXT NOT NULL, value INTEGER NOT NULL, rationale TEXT,
  call TEXT, run INTEGER NOT NULL, PRIMARY KEY (seq, digest, criterion)
) WITHOUT ROWID;
CREATE TABLE screened (run INTEGER PRIMARY KEY, digest BLOB NOT NULL, keys BLOB NOT NULL);
CREATE TABLE snapshots (
  digest TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, kind TEXT NOT NULL, path TEXT NOT NULL,
  rows INTEGER NOT NULL, created TEXT NOT NULL, PRIMARY KEY (name, version)
);
CREATE TABLE splits (seq INTEGER PRIMARY KEY, split TEXT NOT NULL, cluster TEXT NOT NULL, run INTEGER NOT NULL);
CREATE TABLE vectors (
  text BLOB NOT NULL, model TEXT NOT NULL, vector BLOB NOT NULL, PRIMARY KEY (text, model)
) WITHOUT ROWID;
CREATE TABLE verdicts (
  seq INTEGER PRIMARY KEY, verdict TEXT NOT NULL, better INTEGER, reasons TEXT NOT NULL, run INTEGER NOT NULL
);
CREATE INDEX origins_seq ON origins (seq);
CREATE INDEX runs_stage ON runs (stage, state, run);
CREATE INDEX findings_run ON findings (run, seq);
CREATE INDEX calls_by_stage ON calls (stage, state, seq);
CREATE INDEX calls_held ON calls (owner) WHERE owner IS NOT NULL;
CREATE INDEX calls_unsettled ON calls (seq) WHERE state = 'answered' AND settled = 0;
CREATE INDEX calls_by_batch ON calls (batch) WHERE batch IS NOT NULL;
CREATE TRIGGER call_spend_insert AFTER INSERT ON calls BEGIN
    UPDATE call_spend SET held_nano = held_nano + NEW.held_nano, spent_nano = spent_nano + NEW.lost_nano + NEW.cost_nano
    WHERE simulated = NEW.simulated;
END;
CREATE TRIGGER call_spend_update AFTER UPDATE OF held_nano, lost_nano, cost_nano ON calls BEGIN
    UPDATE call_spend SET held_nano = held_nano + NEW.held_nano - OLD.held_nano,
        spent_nano = spent_nano + NEW.lost_nano + NEW.cost_nano - OLD.lost_nano - OLD.cost_nano
    WHERE simulated = NEW.simulated;
END;
CREATE TRIGGER call_spend_delete AFTER DELETE ON calls BEGIN
    UPDATE call_spend SET held_nano = held_nano - OLD.held_nano, spent_nano = spent_nano - OLD.lost_nano - OLD.cost_nano
    WHERE simulated = OLD.simulated;
END;
DELETE FROM "sqlite_sequence";
COMMIT;

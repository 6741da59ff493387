-- One schema for SQLite and PostgreSQL, so only what both understand: BIGINT and TEXT, no NULL.
-- Amounts are nano-dollars, durations nanoseconds, times milliseconds since 1970 (UTC), ids text; what is
-- absent is the empty text.

-- Grows with every change of a record. Whoever changes something updates this row first, so changes come one
-- after the other.
CREATE TABLE revision (number BIGINT NOT NULL);
INSERT INTO revision (number) VALUES (1);

-- Tenants, as JSON. An empty body is a record that was removed; the row tells gateways so.
CREATE TABLE records (
    id        TEXT PRIMARY KEY NOT NULL,
    revision  BIGINT NOT NULL,
    body      TEXT NOT NULL
);
CREATE INDEX records_by_revision ON records (revision);

-- What administrators did and tried, as JSON; each hash covers the one before. Never changed.
CREATE TABLE audit (
    number  BIGINT PRIMARY KEY NOT NULL,
    line    TEXT NOT NULL,
    hash    TEXT NOT NULL
);

-- What was answered to requests that must happen once.
CREATE TABLE idempotency (
    name      TEXT PRIMARY KEY NOT NULL,
    request   TEXT NOT NULL,
    response  TEXT NOT NULL,
    at        BIGINT NOT NULL
);

-- One row for every admitted request, never changed.
CREATE TABLE ledger (
    hold_id            TEXT PRIMARY KEY NOT NULL,
    request_id         TEXT NOT NULL,
    gateway_id         TEXT NOT NULL,
    organization_id    TEXT NOT NULL,
    project_id         TEXT NOT NULL,
    user_id            TEXT NOT NULL,
    key_id             TEXT NOT NULL,
    model              TEXT NOT NULL,
    digest             TEXT NOT NULL,
    admitted_at        BIGINT NOT NULL,
    closed_at          BIGINT NOT NULL,
    outcome            TEXT NOT NULL,
    prompt_tokens      BIGINT NOT NULL,
    cached_tokens      BIGINT NOT NULL,
    completion_tokens  BIGINT NOT NULL,
    gpu_nanos          BIGINT NOT NULL,
    queue_nanos        BIGINT NOT NULL,
    prefill_nanos      BIGINT NOT NULL,
    decode_nanos       BIGINT NOT NULL,
    recompute_nanos    BIGINT NOT NULL,
    saved_nanos        BIGINT NOT NULL,
    cost_nanos         BIGINT NOT NULL,
    charge_nanos       BIGINT NOT NULL,
    overrun_nanos      BIGINT NOT NULL,
    -- What limits and budgets counted of it.
    counted_money      BIGINT NOT NULL,
    counted_tokens     BIGINT NOT NULL,
    counted_gpu        BIGINT NOT NULL
);
CREATE INDEX ledger_by_time ON ledger (admitted_at, hold_id);
CREATE INDEX ledger_by_organization ON ledger (organization_id, admitted_at);

-- What each worker did for a request; `complete` (0 or 1) where it said in the end what it had used.
CREATE TABLE work (
    hold_id               TEXT NOT NULL,
    part                  BIGINT NOT NULL,
    worker                TEXT NOT NULL,
    incarnation           TEXT NOT NULL,
    gpu_nanos             BIGINT NOT NULL,
    recompute_nanos       BIGINT NOT NULL,
    price_per_hour_nanos  BIGINT NOT NULL,
    complete              BIGINT NOT NULL,
    PRIMARY KEY (hold_id, part)
);
CREATE INDEX work_by_worker ON work (worker, incarnation);

-- Sums of ledger rows, kept with each append. `grain` is 'quarter' (of an hour), 'hour' or 'day' (of UTC);
-- `start` is its first moment. A gateway adds to its own sums only, so gateways never wait for each other.
CREATE TABLE rollups (
    grain              TEXT NOT NULL,
    start              BIGINT NOT NULL,
    organization_id    TEXT NOT NULL,
    project_id         TEXT NOT NULL,
    user_id            TEXT NOT NULL,
    key_id             TEXT NOT NULL,
    model              TEXT NOT NULL,
    gateway_id         TEXT NOT NULL,
    requests           BIGINT NOT NULL,
    failures           BIGINT NOT NULL,
    prompt_tokens      BIGINT NOT NULL,
    cached_tokens      BIGINT NOT NULL,
    completion_tokens  BIGINT NOT NULL,
    gpu_nanos          BIGINT NOT NULL,
    recompute_nanos    BIGINT NOT NULL,
    saved_nanos        BIGINT NOT NULL,
    cost_nanos         BIGINT NOT NULL,
    charge_nanos       BIGINT NOT NULL,
    overrun_nanos      BIGINT NOT NULL,
    counted_money      BIGINT NOT NULL,
    counted_tokens     BIGINT NOT NULL,
    counted_gpu        BIGINT NOT NULL,
    PRIMARY KEY (grain, start, key_id, user_id, model, gateway_id)
);
CREATE INDEX rollups_by_organization ON rollups (organization_id, grain, start);
CREATE INDEX rollups_by_project ON rollups (project_id, grain, start);
CREATE INDEX rollups_by_key ON rollups (key_id, grain, start);
CREATE INDEX rollups_by_user ON rollups (user_id, grain, start);

-- When each key last admitted something.
CREATE TABLE key_uses (
    key_id        TEXT PRIMARY KEY NOT NULL,
    last_used_at  BIGINT NOT NULL
);

-- Where each worker's time went, as it last said. An incarnation is one life of a worker process.
CREATE TABLE worker_accounts (
    worker             TEXT NOT NULL,
    incarnation        TEXT NOT NULL,
    at                 BIGINT NOT NULL,
    sequences          BIGINT NOT NULL,
    requests_nanos     BIGINT NOT NULL,
    idle_nanos         BIGINT NOT NULL,
    overhead_nanos     BIGINT NOT NULL,
    preemption_nanos   BIGINT NOT NULL,
    migration_nanos    BIGINT NOT NULL,
    abandoned_nanos    BIGINT NOT NULL,
    wall_nanos         BIGINT NOT NULL,
    PRIMARY KEY (worker, incarnation)
);

-- Alerts that were raised, each once a window. `delivered_at` is 0 at first, negative while it is being delivered.
CREATE TABLE alerts (
    rule_id          TEXT NOT NULL,
    scope            TEXT NOT NULL,
    window_start     BIGINT NOT NULL,
    percent          BIGINT NOT NULL,
    organization_id  TEXT NOT NULL,
    body             TEXT NOT NULL,
    raised_at        BIGINT NOT NULL,
    delivered_at     BIGINT NOT NULL,
    PRIMARY KEY (rule_id, scope, window_start, percent)
);

-- Gateways, and when each was last seen.
CREATE TABLE gateways (
    gateway_id  TEXT PRIMARY KEY NOT NULL,
    seen_at     BIGINT NOT NULL
);

-- Which gateways may hold quota of which organization: whom the bank waits for when its memory is lost.
CREATE TABLE members (
    organization_id  TEXT NOT NULL,
    gateway_id       TEXT NOT NULL,
    PRIMARY KEY (organization_id, gateway_id)
);

-- Organizations whose quota is being told anew, and since when.
CREATE TABLE recoveries (
    organization_id  TEXT PRIMARY KEY NOT NULL,
    since            BIGINT NOT NULL
);

-- Tenants. Amounts are nano-dollars, times are milliseconds since 1970 (UTC), ids are text.
CREATE TABLE organizations (
    id                   TEXT PRIMARY KEY NOT NULL,
    name                 TEXT NOT NULL UNIQUE,
    requests_per_minute  INTEGER,
    tokens_per_minute    INTEGER,
    concurrent_requests  INTEGER,
    budget_nanos         INTEGER
) STRICT;

CREATE TABLE projects (
    id                   TEXT PRIMARY KEY NOT NULL,
    organization_id      TEXT NOT NULL REFERENCES organizations (id),
    name                 TEXT NOT NULL,
    requests_per_minute  INTEGER,
    tokens_per_minute    INTEGER,
    concurrent_requests  INTEGER,
    budget_nanos         INTEGER,
    UNIQUE (organization_id, name)
) STRICT;

CREATE TABLE api_keys (
    id                   TEXT PRIMARY KEY NOT NULL,
    project_id           TEXT NOT NULL REFERENCES projects (id),
    name                 TEXT NOT NULL,
    digest               BLOB NOT NULL UNIQUE,
    created_at           INTEGER NOT NULL,
    revoked_at           INTEGER,
    -- Model names, one a line; empty means every model.
    models               TEXT NOT NULL DEFAULT '',
    requests_per_minute  INTEGER,
    tokens_per_minute    INTEGER,
    concurrent_requests  INTEGER,
    budget_nanos         INTEGER
) STRICT;

-- Grows with every change above; gateways compare it to know that something changed.
CREATE TABLE revision (
    only    INTEGER PRIMARY KEY CHECK (only = 1),
    number  INTEGER NOT NULL
) STRICT;
INSERT INTO revision (only, number) VALUES (1, 1);

-- One row for every admitted request, never changed.
CREATE TABLE ledger (
    hold_id            TEXT PRIMARY KEY NOT NULL,
    request_id         TEXT NOT NULL,
    organization_id    TEXT NOT NULL,
    project_id         TEXT NOT NULL,
    key_id             TEXT NOT NULL,
    model              TEXT NOT NULL,
    digest             TEXT NOT NULL,
    admitted_at        INTEGER NOT NULL,
    closed_at          INTEGER NOT NULL,
    outcome            TEXT NOT NULL,
    prompt_tokens      INTEGER NOT NULL,
    cached_tokens      INTEGER NOT NULL,
    completion_tokens  INTEGER NOT NULL,
    gpu_nanos          INTEGER NOT NULL,
    cost_nanos         INTEGER NOT NULL,
    charge_nanos       INTEGER NOT NULL,
    overrun_nanos      INTEGER NOT NULL
) STRICT;
CREATE INDEX ledger_by_project ON ledger (project_id, admitted_at);
CREATE INDEX ledger_by_request ON ledger (request_id);
CREATE TRIGGER ledger_rows_stay BEFORE UPDATE ON ledger
BEGIN
    SELECT RAISE (ABORT, 'ledger rows never change');
END;

-- Sum of charges by scope, kept in the transaction that writes the rows.
CREATE TABLE spending (
    scope         TEXT PRIMARY KEY NOT NULL,
    charge_nanos  INTEGER NOT NULL
) STRICT;

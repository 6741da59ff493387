-- Time that workers spent on what another worker answered faster; until now it was abandoned.
ALTER TABLE worker_accounts ADD COLUMN hedge_nanos BIGINT NOT NULL DEFAULT 0;

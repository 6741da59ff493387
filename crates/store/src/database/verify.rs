//! Adds everything up again from the rows, and says where it differs from what is kept.

use std::fmt;

use admission::StoreError;
use admission::tenancy::{AuditEntry, Budget, Enforcement, Policy, TimeZone, View, Window};
use admission::{Claim, claims};
use domain::{ModelName, ScopeId, Timestamp};
use sqlx::AssertSqlSafe;
use sqlx::Row as _;

use super::rollups::{Grain, SUMS};
use super::tenants::audit_entry;
use super::{Database, WorkerAccounts, count, integer};
use admission::tenancy::Tenants as _;

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// Ledger rows that were added up.
    pub rows: u64,
    /// Budgets whose balance was derived again, each window by itself.
    pub balances: u64,
    /// Lives of workers whose time was added up.
    pub workers: u64,
    /// Those of them that were at rest, so that their time for requests is that of the rows to the nanosecond.
    pub at_rest: u64,
    /// Lines of the audit log.
    pub audit_lines: u64,
    /// Everything that is not as it must be, in words.
    pub differences: Vec<String>,
}

impl Verification {
    /// Whether everything is as it must be.
    pub fn is_clean(&self) -> bool {
        self.differences.is_empty()
    }
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, balances, workers, at_rest, audit_lines, differences } = self;
        for difference in differences {
            writeln!(f, "DIFFERENCE  {difference}")?;
        }
        let verdict = if differences.is_empty() { "clean" } else { "NOT CLEAN" };
        writeln!(
            f,
            "{verdict}: {rows} ledger rows, {balances} balances, {workers} worker lives \
             ({at_rest} at rest), {audit_lines} audit lines, {} differences",
            differences.len()
        )
    }
}

impl Database {
    /// Adds up rows, sums, balances, workers' time and the audit log. Takes as long as reading every row does.
    pub async fn verify(&self) -> Result<Verification, StoreError> {
        let mut found = Verification { rows: self.rows().await?, ..Verification::default() };
        self.verify_rows(&mut found).await?;
        self.verify_sums(&mut found).await?;
        self.verify_balances(&mut found).await?;
        self.verify_workers(&mut found).await?;
        self.verify_audit(&mut found).await?;
        Ok(found)
    }

    /// What must hold inside each row.
    async fn verify_rows(&self, found: &mut Verification) -> Result<(), StoreError> {
        for (rule, broken) in RULES_OF_ROWS {
            let statement =
                format!("SELECT hold_id FROM ledger WHERE {broken} ORDER BY hold_id LIMIT 20");
            for hold in self.texts(statement).await? {
                found.differences.push(format!("row {hold}: {rule}"));
            }
        }
        let broken = self.texts(WORK_DIFFERS.to_owned()).await?;
        let say = |hold| format!("row {hold}: its workers did not do what it says they did");
        found.differences.extend(broken.into_iter().map(say));
        Ok(())
    }

    /// Whether the sums are those of the rows.
    async fn verify_sums(&self, found: &mut Verification) -> Result<(), StoreError> {
        for grain in Grain::ALL {
            let (name, millis) = (grain.name(), grain.millis());
            let start = format!("(admitted_at / {millis}) * {millis}");
            let sum = |sum: &&str| match *sum {
                "requests" => "CAST(COUNT(*) AS BIGINT)".to_owned(),
                "failures" => {
                    format!("CAST(SUM(CASE WHEN outcome IN ({FINE}) THEN 0 ELSE 1 END) AS BIGINT)")
                }
                sum => format!("CAST(SUM({sum}) AS BIGINT)"),
            };
            let sums: Vec<String> = SUMS.iter().map(sum).collect();
            let rows = format!(
                "SELECT {start} AS start, {HEAP}, {} FROM ledger GROUP BY {start}, {HEAP}",
                sums.join(", ")
            );
            let kept = format!(
                "SELECT start, {HEAP}, {} FROM rollups WHERE grain = '{name}'",
                SUMS.join(", ")
            );
            for (one, other, verdict) in [
                (&rows, &kept, "is by the rows, but not kept so"),
                (&kept, &rows, "is kept, but not by the rows"),
            ] {
                let statement = format!(
                    "SELECT CAST(start AS TEXT) || ' ' || key_id || ' ' || model || ' ' || gateway_id \
                     FROM ({one} EXCEPT {other}) AS difference LIMIT 20"
                );
                let differing = self.texts(statement).await?;
                let say = |heap| format!("sum of {name} {heap}: {verdict}");
                found.differences.extend(differing.into_iter().map(say));
            }
        }
        Ok(())
    }

    /// Whether any hard budget is overspent in any of its windows.
    async fn verify_balances(&self, found: &mut Verification) -> Result<(), StoreError> {
        let mut view = View::default();
        view.apply(self.changes(0).await?);
        let Some((first, last)) = self.first_and_last().await? else { return Ok(()) };
        for record in view.records() {
            let Some((organization, scope, policy)) = view.place(record) else { continue };
            let Some(organization) = view.organization(organization) else { continue };
            let zone = &organization.time_zone;
            let hard = policy.budgets.iter().filter(|one| one.enforcement == Enforcement::Hard);
            for budget in hard {
                for at in windows(zone, budget.window, first, last) {
                    let claim = claim(scope, budget, zone, at);
                    let spent = self.spent(organization.id, std::slice::from_ref(&claim)).await?;
                    let spent = spent.iter().flat_map(|founding| &founding.spent);
                    let spent: i64 = spent.map(|(_, amount)| amount).sum();
                    found.balances += 1;
                    if spent > claim.capacity() {
                        found.differences.push(format!(
                            "budget {} of {} {scope}, window from {}: {spent} spent of {} (it may have been lowered since)",
                            budget.id, scope.level(), at.millis(), claim.capacity()
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether every worker's accounts sum up to its time, and its requests to what the rows say.
    async fn verify_workers(&self, found: &mut Verification) -> Result<(), StoreError> {
        for accounts in self.accounts().await? {
            found.workers += 1;
            let name = format!("worker {} ({})", accounts.worker, accounts.incarnation);
            if accounts.sum() != accounts.wall {
                found.differences.push(format!(
                    "{name}: its accounts sum up to {} ns, but its time is {} ns",
                    accounts.sum().nanos(),
                    accounts.wall.nanos()
                ));
            }
            self.verify_requests(&accounts, &name, found).await?;
        }
        Ok(())
    }

    /// Whether a worker's time for requests is what the rows say, if everything that it did is in rows.
    ///
    /// A gateway that died never read the last word of some of its requests: their time is in no row, and
    /// their rows are `interrupted`.
    async fn verify_requests(
        &self,
        accounts: &WorkerAccounts,
        name: &str,
        found: &mut Verification,
    ) -> Result<(), StoreError> {
        let WorkerAccounts { worker, incarnation, at, wall, requests, .. } = accounts;
        let born = at.millis().saturating_sub(wall.nanos() / 1_000_000 + CLOCKS_DIFFER_MILLIS);
        let row = sqlx::query(SUM_OF_WORK)
            .bind(worker.clone())
            .bind(incarnation.clone())
            .bind(integer(born))
            .fetch_one(&self.pool)
            .await;
        let read = row.and_then(|row| {
            let count = |name| count(&row, name);
            Ok((count("gpu")?, count("whole")?, count("last")?, count("lost")?))
        });
        let (gpu, whole, last, lost) =
            read.map_err(|error| StoreError::new("sum up work", error))?;
        if accounts.sequences > 0 || last > at.millis() {
            return Ok(()); // it was at work
        }
        found.at_rest += 1;
        let requests = requests.nanos();
        // What was told of a sequence that its gateway then gave up is in its row, and in the worker's abandoned time.
        let most = requests + accounts.abandoned.nanos();
        if whole > requests || gpu > most || (gpu < requests && lost == 0) {
            found.differences.push(format!(
                "{name}: rows say {gpu} ns for requests, the worker said {requests} ns \
                 (rows may still be on their way; verify again in a minute)"
            ));
        }
        Ok(())
    }

    /// Whether any line of the audit log was changed, added or taken out.
    async fn verify_audit(&self, found: &mut Verification) -> Result<(), StoreError> {
        let doing = |error| StoreError::new("read audit log", error);
        let mut last: Option<AuditEntry> = None;
        loop {
            let after = last.as_ref().map_or(0, |last| last.number);
            let rows = sqlx::query(SELECT_AUDIT).bind(integer(after)).fetch_all(&self.pool).await;
            let rows = rows.map_err(doing)?;
            if rows.is_empty() {
                return Ok(());
            }
            for row in rows {
                let number = count(&row, "number").map_err(doing)?;
                found.audit_lines += 1;
                let before = last.as_ref().map_or(0, |last| last.number);
                if number != before + 1 {
                    let (from, to) = (before + 1, number - 1);
                    found.differences.push(format!("audit log: lines {from} to {to} are missing"));
                }
                let Ok(entry) = audit_entry(&row) else {
                    found.differences.push(format!("audit log: line {number} cannot be read"));
                    return Ok(());
                };
                if !entry.follows(last.as_ref()) {
                    found.differences.push(format!("audit log: line {number} was changed"));
                }
                last = Some(entry);
            }
        }
    }

    async fn first_and_last(&self) -> Result<Option<(Timestamp, Timestamp)>, StoreError> {
        if self.rows().await? == 0 {
            return Ok(None);
        }
        let row =
            sqlx::query("SELECT MIN(admitted_at) AS first, MAX(admitted_at) AS last FROM ledger")
                .fetch_one(&self.pool)
                .await;
        let read = row.and_then(|row| Ok((count(&row, "first")?, count(&row, "last")?)));
        let (first, last) = read.map_err(|error| StoreError::new("read ledger", error))?;
        Ok(Some((Timestamp::from_millis(first), Timestamp::from_millis(last))))
    }

    async fn texts(&self, statement: String) -> Result<Vec<String>, StoreError> {
        let rows = sqlx::query(AssertSqlSafe(statement)).fetch_all(&self.pool).await;
        let texts = rows.and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect());
        texts.map_err(|error| StoreError::new("compare sums", error))
    }
}

/// A moment in each window that rows are in.
fn windows(zone: &TimeZone, window: Window, first: Timestamp, last: Timestamp) -> Vec<Timestamp> {
    let mut windows = Vec::new();
    let mut at = last;
    // Backwards, so that the newest are looked at if there are too many.
    while windows.len() < MAX_WINDOWS {
        let bounds = zone.bounds(window, at);
        windows.push(bounds.start);
        if bounds.start <= first {
            break;
        }
        at = Timestamp::from_millis(bounds.start.millis() - 1);
    }
    windows
}

/// The budget as a request at `at` would meet it.
fn claim(scope: ScopeId, budget: &Budget, zone: &TimeZone, at: Timestamp) -> Claim {
    let policy = Policy { budgets: vec![budget.clone()], ..Policy::default() };
    let model = budget.model.clone().unwrap_or_else(|| ModelName::new("any"));
    claims([(scope, &policy)], zone, &model, at).swap_remove(0)
}

/// More windows of one budget than these are not looked at, beginning with the newest.
const MAX_WINDOWS: usize = 400;
const HEAP: &str = "organization_id, project_id, user_id, key_id, model, gateway_id";
/// Outcomes that are no failures; see `Outcome::is_failure`.
const FINE: &str = "'stop', 'length', 'budget', 'cancelled', 'cache_hit', 'client_gone'";
const CLOCKS_DIFFER_MILLIS: u64 = 600_000;
const SUM_OF_WORK: &str = "SELECT \
     CAST(COALESCE(SUM(work.gpu_nanos), 0) AS BIGINT) AS gpu, \
     CAST(COALESCE(SUM(work.gpu_nanos * work.complete), 0) AS BIGINT) AS whole, \
     CAST(COALESCE(MAX(ledger.closed_at), 0) AS BIGINT) AS last, \
     CAST(COALESCE(SUM(1 - work.complete), 0) + (SELECT COUNT(*) FROM ledger AS other \
         WHERE other.outcome = 'interrupted' AND other.admitted_at >= $3) AS BIGINT) AS lost \
     FROM work JOIN ledger ON ledger.hold_id = work.hold_id \
     WHERE work.worker = $1 AND work.incarnation = $2";
const SELECT_AUDIT: &str =
    "SELECT number, line, hash FROM audit WHERE number > $1 ORDER BY number LIMIT 1000";
const WORK_DIFFERS: &str = "SELECT ledger.hold_id FROM ledger JOIN \
     (SELECT hold_id, SUM(gpu_nanos) AS gpu FROM work GROUP BY hold_id) AS done \
     ON done.hold_id = ledger.hold_id WHERE done.gpu <> ledger.gpu_nanos LIMIT 20";
const RULES_OF_ROWS: [(&str, &str); 5] = [
    (
        "it ended before it was admitted by more than clocks differ",
        "closed_at < admitted_at - 600000",
    ),
    ("it has more cached tokens than tokens", "cached_tokens > prompt_tokens"),
    (
        "it pays, but nothing was computed",
        "charge_nanos > 0 AND gpu_nanos = 0 AND completion_tokens = 0",
    ),
    ("budgets counted another amount than it pays", "counted_money <> charge_nanos"),
    (
        "an amount is negative",
        "charge_nanos < 0 OR cost_nanos < 0 OR overrun_nanos < 0 OR gpu_nanos < 0",
    ),
];

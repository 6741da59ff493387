//! Ledger rows and their sums, in every kind of database.

use std::collections::{BTreeMap, HashMap};

use admission::tenancy::{Amount, Budget, Enforcement, Policy, TimeZone, Window};
use admission::{Admitted, Claim, Entry, Outcome, claims};
use domain::{
    EndUserId, GatewayId, KeyId, ModelName, NanoUsd, OrganizationId, ProjectId, RuleId, Scope,
    ScopeId, Timestamp,
};
use fastrand::Rng;
use store::{ExportFormat, ExportRange, UsageGroup, UsageQuery};

use crate::databases::{Fresh, for_each_database};
use crate::world::{admitted, closed, scope};

for_each_database!(
    a_row_counts_once_however_often_it_comes,
    what_was_spent_in_a_window_is_the_sum_of_its_rows,
    usage_is_told_by_any_group_and_page_by_page,
    a_question_that_cannot_be_answered_exactly_is_refused,
    rows_are_exported_in_order_and_completely,
    keys_tell_when_they_were_last_used,
);

/// Rows of two organizations over some days, by several gateways, for two models.
fn history(random: &mut Rng, rows: usize) -> Vec<Entry> {
    let row = |_| {
        let organization = random.u128(1..3);
        let project = organization * 10 + random.u128(..2);
        let user = random.bool().then(|| EndUserId::from_u128(project * 10 + random.u128(..2)));
        let key = KeyId::from_u128(project * 10 + random.u128(..2));
        let admitted = Admitted {
            gateway: GatewayId::from_u128(random.u128(1..4)),
            scope: Scope {
                organization: OrganizationId::from_u128(organization),
                project: ProjectId::from_u128(project),
                user,
                key,
            },
            model: ModelName::new(if random.bool() { "m" } else { "n" }),
            at: Timestamp::from_millis(START + random.u64(..5 * DAY)),
            ..admitted()
        };
        let charge = random.i64(0..1_000_000);
        let mut entry = closed(&admitted, charge);
        entry.counted.tokens = random.u64(..1_000);
        if random.u32(..10) == 0 {
            entry.outcome = Outcome::Failed("internal".to_owned());
        }
        entry
    };
    (0..rows).map(row).collect()
}

async fn a_row_counts_once_however_often_it_comes(Fresh { database, .. }: Fresh) {
    let entry = closed(&admitted(), 5);
    let other = closed(&admitted(), 7);

    database.append(&[entry.clone(), entry.clone()]).await.unwrap();
    database.append(&[entry.clone(), other]).await.unwrap();
    database.append(&[entry]).await.unwrap();

    assert_eq!(database.rows().await.unwrap(), 2);
    let verification = database.verify().await.unwrap();
    assert!(verification.is_clean(), "{verification}");
    let claim = &claim(ScopeId::Key(scope().key), Window::Total, None, START);
    let spent = database.spent(scope().organization, std::slice::from_ref(claim)).await.unwrap();
    assert_eq!(spent[0].spent, [(crate::world::GATEWAY, 12)]);
}

fn claim(scope: ScopeId, window: Window, model: Option<&str>, at: u64) -> Claim {
    claim_in("Asia/Kathmandu", scope, window, model, at)
}

fn claim_in(zone: &str, scope: ScopeId, window: Window, model: Option<&str>, at: u64) -> Claim {
    let budget = Budget {
        id: RuleId::from_u128(1),
        amount: Amount::Money(NanoUsd::from_dollars(1)),
        window,
        enforcement: Enforcement::Hard,
        alert_percent: Vec::new(),
        model: model.map(ModelName::new),
    };
    let policy = Policy { budgets: vec![budget], ..Policy::default() };
    let zone = TimeZone::try_from(zone.to_owned()).unwrap();
    let any = ModelName::new(model.unwrap_or("m"));
    claims([(scope, &policy)], &zone, &any, Timestamp::from_millis(at)).remove(0)
}

async fn what_was_spent_in_a_window_is_the_sum_of_its_rows(Fresh { database, .. }: Fresh) {
    let mut random = Rng::with_seed(7);
    let rows = history(&mut random, 400);
    for batch in rows.chunks(90) {
        database.append(batch).await.unwrap();
    }

    for _ in 0..60 {
        let row = &rows[random.usize(..rows.len())];
        let places: Vec<ScopeId> = row.admitted.scope.path().collect();
        let place = places[random.usize(..places.len())];
        let windows = [Window::Day, Window::Week, Window::Month, Window::Total];
        let window = windows[random.usize(..4)];
        let model = random.bool().then_some("n");
        // Quarters of an hour matter in Nepal, and days of other lengths in Berlin.
        let zone =
            ["UTC", "Asia/Kathmandu", "Europe/Berlin", "America/St_Johns"][random.usize(..4)];
        let claim = claim_in(zone, place, window, model, row.admitted.at.millis());

        let organization = row.admitted.scope.organization;
        let spent = database.spent(organization, std::slice::from_ref(&claim)).await.unwrap();

        let counts = |row: &&Entry| {
            row.admitted.scope.path().any(|at| at == place)
                && (claim.bounds.start..claim.bounds.end).contains(&row.admitted.at)
                && model.is_none_or(|model| row.admitted.model.as_str() == model)
        };
        let mut expected: BTreeMap<GatewayId, i64> = BTreeMap::new();
        for row in rows.iter().filter(counts) {
            *expected.entry(row.admitted.gateway).or_default() += row.counted.money.nanos();
        }
        let spent: BTreeMap<GatewayId, i64> = spent[0].spent.iter().copied().collect();
        assert_eq!(spent, expected, "{zone} {window:?} {place} {model:?}");
    }
    let verification = database.verify().await.unwrap();
    assert!(verification.is_clean(), "{verification}");
}

async fn usage_is_told_by_any_group_and_page_by_page(Fresh { database, .. }: Fresh) {
    let rows = history(&mut Rng::with_seed(8), 300);
    database.append(&rows).await.unwrap();
    let everything = UsageQuery {
        from: Timestamp::from_millis(START),
        to: Timestamp::from_millis(START + 5 * DAY),
        limit: 1_000,
        ..UsageQuery::default()
    };

    let groups = vec![UsageGroup::Project, UsageGroup::Model, UsageGroup::Day];
    let query = UsageQuery { groups: groups.clone(), ..everything.clone() };
    let whole = database.usage(&query).await.unwrap();
    assert_eq!(whole.next, None);
    let mut expected: BTreeMap<Vec<String>, (u64, u64, i64)> = BTreeMap::new();
    for row in &rows {
        let day = row.admitted.at.millis() / DAY * DAY;
        let group = vec![
            row.admitted.scope.project.to_string(),
            row.admitted.model.to_string(),
            day.to_string(),
        ];
        let (requests, failures, charge) = expected.entry(group).or_default();
        *requests += 1;
        *failures += u64::from(row.outcome.is_failure());
        *charge += row.charge.charge.nanos();
    }
    let told: BTreeMap<Vec<String>, (u64, u64, i64)> = whole
        .lines
        .iter()
        .map(|line| {
            let figures = (line.requests, line.failures, line.charge.charge.nanos());
            (line.group.clone(), figures)
        })
        .collect();
    assert_eq!(told, expected);

    let mut paged = Vec::new();
    let mut query = UsageQuery { groups, limit: 3, ..everything.clone() };
    loop {
        let page = database.usage(&query).await.unwrap();
        paged.extend(page.lines);
        let Some(next) = page.next else { break };
        query.skip = next;
    }
    assert_eq!(paged, whole.lines);

    let only = rows[0].admitted.scope.key;
    let mine = database.usage(&UsageQuery { key: Some(only), ..everything }).await.unwrap();
    let expected = rows.iter().filter(|row| row.admitted.scope.key == only).count() as u64;
    assert_eq!(mine.lines[0].requests, expected);
}

async fn a_question_that_cannot_be_answered_exactly_is_refused(Fresh { database, .. }: Fresh) {
    let (from, to) = (Timestamp::from_millis(START), Timestamp::from_millis(START + 60_000));
    let query = UsageQuery { from, to, limit: 10, ..UsageQuery::default() };
    let refused = database.usage(&query).await.unwrap_err().to_string();
    assert!(refused.contains("`to`"), "{refused}");

    let hour = Timestamp::from_millis(START + 3_600_000);
    let groups = vec![UsageGroup::Day];
    let refused = database.usage(&UsageQuery { to: hour, groups, ..query }).await.unwrap_err();
    assert!(refused.to_string().contains("beginning of a day"), "{refused}");
}

async fn rows_are_exported_in_order_and_completely(Fresh { database, .. }: Fresh) {
    let mut rows = history(&mut Rng::with_seed(9), 50);
    database.append(&rows).await.unwrap();
    let range = ExportRange {
        from: Timestamp::from_millis(START),
        to: Timestamp::from_millis(START + 4 * DAY),
        organization: Some(OrganizationId::from_u128(1)),
    };
    rows.retain(|row| {
        row.admitted.at < range.to && Some(row.admitted.scope.organization) == range.organization
    });
    rows.sort_by_key(|row| (row.admitted.at, row.admitted.hold));

    let mut text = Vec::new();
    let written = database.export(range, ExportFormat::Csv, &mut text).await.unwrap();
    assert_eq!(written, rows.len() as u64);
    let mut reader = csv::Reader::from_reader(text.as_slice());
    let header = reader.headers().unwrap().clone();
    let column = |name: &str| header.iter().position(|known| known == name).unwrap();
    let (hold, charge) = (column("x_HoldId"), column("BilledCost"));
    for (line, row) in reader.records().map(Result::unwrap).zip(&rows) {
        assert_eq!(line[hold], row.admitted.hold.to_string());
        assert_eq!(line[charge], row.charge.charge.to_string());
    }

    let file = tempfile::NamedTempFile::new().unwrap();
    let mut out = file.reopen().unwrap();
    database.export(range, ExportFormat::Parquet, &mut out).await.unwrap();
    let reader = parquet::file::reader::SerializedFileReader::new(file.reopen().unwrap()).unwrap();
    let read: Vec<String> = reader
        .into_iter()
        .map(|row| {
            let row = row.unwrap();
            let hold = row.get_column_iter().find(|(name, _)| *name == "x_HoldId").unwrap();
            hold.1.to_string().trim_matches('"').to_owned()
        })
        .collect();
    let holds: Vec<String> = rows.iter().map(|row| row.admitted.hold.to_string()).collect();
    assert_eq!(read, holds);
}

async fn keys_tell_when_they_were_last_used(Fresh { database, .. }: Fresh) {
    let at = |millis| Timestamp::from_millis(START + millis);
    let row = |millis| closed(&Admitted { at: at(millis), ..admitted() }, 1);

    database.append(&[row(5), row(9)]).await.unwrap();
    database.append(&[row(7)]).await.unwrap();

    let uses = database.key_uses().await.unwrap();
    assert_eq!(uses.get(&scope().key), Some(&at(9)));
    let (used, unused) = (scope().key, KeyId::from_u128(4));
    let asked = database.last_used(&[unused, used]).await.unwrap();
    assert_eq!(asked, HashMap::from([(used, at(9))]));
    assert!(database.last_used(&[]).await.unwrap().is_empty());
}

/// The beginning of a day (UTC).
const START: u64 = 1_779_926_400_000 / DAY * DAY;
const DAY: u64 = 24 * 60 * 60 * 1_000;

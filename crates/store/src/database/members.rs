//! Which gateways there are, and of which organizations each may hold quota: what a bank that can lose its
//! memory has to know from elsewhere.

use std::time::Duration;

use admission::StoreError;
use domain::{GatewayId, OrganizationId, Timestamp};

use super::{Database, count, integer, parsed};

/// A gateway that may hold quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) gateway: GatewayId,
    pub(crate) seen_at: Timestamp,
}

impl Database {
    /// Notes that `gateway` is here, and returns the organizations of which it is to tell what it has.
    pub(crate) async fn greet(
        &self,
        gateway: GatewayId,
        now: Timestamp,
    ) -> Result<Vec<(OrganizationId, Timestamp)>, StoreError> {
        let exchange = async {
            sqlx::query(SEEN)
                .bind(gateway.to_string())
                .bind(integer(now.millis()))
                .execute(&self.pool)
                .await?;
            let rows = sqlx::query(RECOVERIES)
                .bind(gateway.to_string())
                .bind(integer(now.millis().saturating_sub(RECOVERY_MILLIS)))
                .fetch_all(&self.pool)
                .await?;
            let recovery = |row| {
                let since = Timestamp::from_millis(count(row, "since")?);
                Ok((parsed(row, "organization_id")?, since))
            };
            rows.iter().map(recovery).collect::<sqlx::Result<Vec<_>>>()
        };
        exchange.await.map_err(|error: sqlx::Error| StoreError::new("greet other gateways", error))
    }

    /// How many other gateways were seen within `lately` before `now`.
    pub(crate) async fn others_seen_since(
        &self,
        gateway: GatewayId,
        now: Timestamp,
        lately: Duration,
    ) -> Result<u64, StoreError> {
        let oldest = now.millis().saturating_sub(u64::try_from(lately.as_millis()).unwrap_or(0));
        let counted = sqlx::query(OTHERS)
            .bind(gateway.to_string())
            .bind(integer(oldest))
            .fetch_one(&self.pool)
            .await;
        let counted = counted.and_then(|row| count(&row, "others"));
        counted.map_err(|error| StoreError::new("look for other gateways", error))
    }

    /// Notes that `gateway` may hold quota of `organization`; whether it is the first that ever did.
    pub(crate) async fn join(
        &self,
        organization: OrganizationId,
        gateway: GatewayId,
    ) -> Result<bool, StoreError> {
        let join = async {
            let mut transaction = self.begin().await?;
            // One after the other, or two could both believe to be the first.
            sqlx::query("UPDATE revision SET number = number").execute(&mut *transaction).await?;
            let known =
                sqlx::query("SELECT gateway_id FROM members WHERE organization_id = $1 LIMIT 1")
                    .bind(organization.to_string())
                    .fetch_optional(&mut *transaction)
                    .await?;
            sqlx::query(JOIN)
                .bind(organization.to_string())
                .bind(gateway.to_string())
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await?;
            Ok(known.is_none())
        };
        join.await.map_err(|error: sqlx::Error| StoreError::new("join holders of quota", error))
    }

    /// Organizations of which `gateway` may hold quota.
    pub(crate) async fn memberships(
        &self,
        gateway: GatewayId,
    ) -> Result<Vec<OrganizationId>, StoreError> {
        let read = async {
            let rows =
                sqlx::query(MEMBERSHIPS).bind(gateway.to_string()).fetch_all(&self.pool).await?;
            rows.iter().map(|row| parsed(row, "organization_id")).collect::<sqlx::Result<_>>()
        };
        read.await.map_err(|error: sqlx::Error| StoreError::new("read holdings of quota", error))
    }

    /// Who may hold quota of `organization`.
    pub(crate) async fn members(
        &self,
        organization: OrganizationId,
    ) -> Result<Vec<Member>, StoreError> {
        let read = async {
            let rows =
                sqlx::query(MEMBERS).bind(organization.to_string()).fetch_all(&self.pool).await?;
            let member = |row| {
                let seen_at = Timestamp::from_millis(count(row, "seen_at")?);
                Ok(Member { gateway: parsed(row, "gateway_id")?, seen_at })
            };
            rows.iter().map(member).collect::<sqlx::Result<Vec<_>>>()
        };
        read.await.map_err(|error: sqlx::Error| StoreError::new("read holders of quota", error))
    }

    /// Asks every member of `organization` to tell what it has.
    pub(crate) async fn call_members(
        &self,
        organization: OrganizationId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let called = sqlx::query(CALL)
            .bind(organization.to_string())
            .bind(integer(now.millis()))
            .execute(&self.pool)
            .await;
        called.map(drop).map_err(|error| StoreError::new("call holders of quota", error))
    }

    /// Forgets that `gateway` may hold quota of `organization`.
    pub(crate) async fn leave(
        &self,
        organization: OrganizationId,
        gateway: GatewayId,
    ) -> Result<(), StoreError> {
        let left =
            sqlx::query("DELETE FROM members WHERE organization_id = $1 AND gateway_id = $2")
                .bind(organization.to_string())
                .bind(gateway.to_string())
                .execute(&self.pool)
                .await;
        left.map(drop).map_err(|error| StoreError::new("leave holders of quota", error))
    }
}

/// How long gateways are reminded of a recovery.
const RECOVERY_MILLIS: u64 = 60 * 60 * 1_000;
const SEEN: &str = "INSERT INTO gateways (gateway_id, seen_at) VALUES ($1, $2) \
     ON CONFLICT (gateway_id) DO UPDATE SET seen_at = excluded.seen_at";
const OTHERS: &str =
    "SELECT COUNT(*) AS others FROM gateways WHERE gateway_id <> $1 AND seen_at >= $2";
const RECOVERIES: &str = "SELECT recoveries.organization_id, since FROM recoveries JOIN members \
     ON members.organization_id = recoveries.organization_id \
     WHERE members.gateway_id = $1 AND since >= $2";
const JOIN: &str = "INSERT INTO members (organization_id, gateway_id) VALUES ($1, $2) \
     ON CONFLICT (organization_id, gateway_id) DO NOTHING";
const MEMBERS: &str = "SELECT members.gateway_id, COALESCE(seen_at, 0) AS seen_at FROM members \
     LEFT JOIN gateways ON gateways.gateway_id = members.gateway_id WHERE organization_id = $1";
const MEMBERSHIPS: &str = "SELECT organization_id FROM members WHERE gateway_id = $1";
const CALL: &str = "INSERT INTO recoveries (organization_id, since) VALUES ($1, $2) \
     ON CONFLICT (organization_id) DO UPDATE SET since = excluded.since";

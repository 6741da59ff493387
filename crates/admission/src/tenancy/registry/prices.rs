//! Prices: what a model costs from a moment on.
//!
//! A price that has begun was charged, and is never changed or removed: a new one takes its place when it
//! begins.

use domain::{ModelDigest, ModelName, NanoUsd, Price, PriceId, Problems, Timestamp};
use serde::Serialize;

use super::error::RegistryError;
use super::policy::check_model_name;
use super::request::{Desk, Planned, Request, checked};
use super::words::check_length;
use crate::tenancy::kept::RecordId;
use crate::tenancy::permissions::Action;
use crate::tenancy::records::PriceRecord;

/// Makes a price.
#[derive(Clone, Debug, Serialize)]
pub struct NewPrice {
    /// The model.
    pub model: ModelName,
    /// Its exact version; absent means every version.
    pub digest: Option<ModelDigest>,
    /// The first moment it counts; now if absent.
    pub effective_from: Option<Timestamp>,
    /// The price.
    pub price: Price,
}

/// Removes a price that has not begun.
#[derive(Clone, Debug, Serialize)]
pub struct PriceDeletion {
    /// Which one.
    pub price: PriceId,
}

impl Request for NewPrice {
    type Record = PriceRecord;
    const ACTION: Action = Action::Create;

    fn subject(&self) -> Option<RecordId> {
        None
    }

    fn plan(&self, desk: &Desk<'_>) -> Result<Planned<PriceRecord>, RegistryError> {
        let mut problems = Problems::default();
        check_model_name(&self.model, "model", &mut problems);
        if let Some(digest) = &self.digest {
            check_length(digest.as_str(), MAX_DIGEST_CHARACTERS, "digest", &mut problems);
        }
        if self.effective_from.is_some_and(|from| from < desk.now) {
            let message = "must not be over: what was charged stays; leave it out for now";
            problems.add("effective_from", message);
        }
        if let Price::GpuTime { per_hour, .. } = self.price
            && per_hour < NanoUsd::ZERO
        {
            problems.add("price.per_hour", "must not be negative");
        }
        let record = PriceRecord {
            id: PriceId::generate(),
            version: 0,
            model: self.model.clone(),
            digest: self.digest.clone(),
            effective_from: self.effective_from.unwrap_or(desk.now),
            price: self.price,
            created_at: desk.now,
        };
        let record = checked(record, problems)?;
        let named = |other: &PriceRecord| (other.model.clone(), other.digest.clone());
        let same = |other: &&PriceRecord| {
            other.effective_from == record.effective_from && named(other) == named(&record)
        };
        if let Some(same) = desk.view.all::<PriceRecord>().find(same) {
            let detail = format!("price {} of this model begins at the same moment", same.id);
            let remedy = "choose another moment, or delete that price if it has not begun";
            return Err(RegistryError::Conflict { detail, remedy });
        }
        Ok(Planned::kept(record))
    }
}

impl Request for PriceDeletion {
    type Record = PriceRecord;
    const ACTION: Action = Action::Delete;

    fn subject(&self) -> Option<RecordId> {
        Some(self.price.into())
    }

    fn plan(&self, desk: &Desk<'_>) -> Result<Planned<PriceRecord>, RegistryError> {
        let price = desk.record::<PriceRecord>(self.price)?;
        if price.effective_from <= desk.now {
            let detail = format!("price {} has begun, and was charged", self.price);
            let remedy = "make a new price; it takes this one's place when it begins";
            return Err(RegistryError::Conflict { detail, remedy });
        }
        Ok(Planned::removed(price.clone()))
    }
}

const MAX_DIGEST_CHARACTERS: usize = 256;

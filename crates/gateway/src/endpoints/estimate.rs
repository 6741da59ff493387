//! `POST /v1/cost/estimate`: what a request would come to, and whether it would be admitted now.
//!
//! The body is that of a chat or a text completion. Nothing is held and nothing runs.

use admission::{Estimate, Quantity};
use domain::Job;
use http::Method;
use serde_json::{Value, json};

use super::{Action, Endpoint, chat, completions};
use crate::call::Call;
use crate::failure::{Failure, code};
use crate::fields::{Fields, parse_object};

pub(crate) const ENDPOINT: Endpoint = Endpoint {
    method: Method::POST,
    path: "/v1/cost/estimate",
    action: Action::Estimate(parse, describe),
};

fn parse(body: &[u8]) -> Result<Call, Failure> {
    let body = parse_object(body)?;
    let fields = Fields::of(&body, "")?;
    if fields.value("messages").is_some() {
        chat::call(&fields)
    } else {
        completions::call(&fields)
    }
}

fn describe(job: &Job, estimate: &Estimate) -> Value {
    let figures = |quantity: &Quantity, completion_tokens: u32| {
        json!({
            "completion_tokens": completion_tokens,
            "cost": quantity.money.nanos() as f64 / 1e9,
            "charge_nano_usd": quantity.money.nanos(),
            "gpu_nanos": quantity.gpu.nanos(),
        })
    };
    let refusal = estimate
        .refusal
        .as_ref()
        .map(|refusal| json!({ "code": code(refusal.kind()), "message": refusal.to_string() }));
    json!({
        "object": "cost.estimate",
        "model": job.model(),
        "prompt_tokens": job.prompt_tokens(),
        "max_completion_tokens": job.max_output(),
        "least": figures(&estimate.least, job.choices()),
        "most": figures(&estimate.most, job.total_output()),
        "price": job.price(),
        "admitted": estimate.refusal.is_none(),
        "refusal": refusal,
    })
}

//! The life of a request, top to bottom.
//!
//! Each line of [`Gateway::answer`] needs what the line above returned, so a dispatch without a
//! hold does not compile. Observability is written once, around it. How requests come in is in `door.rs`.

mod embedding;

use admission::{Caller, Outcome, Rates, Receipt};
use domain::{FinishReason, Job, OwnBound, Priority, RequestId};
use serde_json::Value;
use tokio::time::Instant;

use crate::call::{self, Call, Delivery, PRIORITY_HEADER};
use crate::endpoints::{self, About, Action, Codec, Ending, Match, budget_error};
use crate::failure::{Failure, RateUnit};
use crate::gateway::Gateway;
use crate::relay::{Exchange, Relayed};
use crate::reply::Reply;

impl Gateway {
    /// Answers one request, and says once what became of it.
    pub(crate) async fn serve(&self, reply: &mut Reply) {
        let began = Instant::now();
        let _in_flight = self.count_in_flight();
        let answered = self.answer(reply, began).await;
        if let Err(failure) = &answered {
            reply.fail(failure).await;
        }
        self.observe(reply, began, &answered);
    }

    /// The life of a request.
    async fn answer(&self, reply: &mut Reply, began: Instant) -> Result<Option<Receipt>, Failure> {
        reply.check_head(self.settings().max_head_bytes)?;
        let Match { endpoint, name } = endpoints::find(reply.method(), reply.path())?;
        let codec = match &endpoint.action {
            Action::Answer(codec) => *codec,
            Action::Embed => return self.embed(reply, began).await.map(Some),
            Action::Probe(probe) => {
                let (status, value) = probe(self);
                return reply.json(status, &value).await.map(|()| None);
            }
            Action::Estimate(parse, describe) => {
                let caller = self.admission().identify(reply.credentials())?;
                let _place = self.place()?;
                let call = parse(&reply.body(self.settings().max_body_bytes).await?)?;
                let call = from_headers(reply, call)?;
                let (_, job) = self.catalog().resolve(&caller, reply.request(), call).await?;
                let estimate = self.admission().estimate(&caller, &job);
                return reply.json(200, &describe(&job, &estimate)).await.map(|()| None);
            }
            Action::Read(read) => {
                let caller = self.admission().identify(reply.credentials())?;
                let value = read(self, &caller, &name)?;
                return reply.json(200, &value).await.map(|()| None);
            }
        };
        let caller = self.admission().identify(reply.credentials())?; // who; before the body is read
        let _place = self.place()?; // a bound on what runs here at a time
        let call = codec.parse(&reply.body(self.settings().max_body_bytes).await?)?; // bytes -> domain
        let call = from_headers(reply, call)?;
        let (delivery, tools) = (call.delivery, call.tools.clone());
        let (format_field, prompt_field) = (call.format_field.clone(), call.prompt.field());
        let echo = call.echo();
        let (model, job) = self.catalog().resolve(&caller, reply.request(), call).await?; // exact prompt tokens, bounded output
        let job = self.rank(&caller, reply, job); // whose turn it is when workers are short
        let permit = self.admission().reserve(&caller, &job).await?; // limits and budgets, one atomic hold
        show_rates(reply, permit.rates());
        let echo = echo.map(|echo| echo.of(&model.text, job.prompt()));
        let about = self.about(codec, reply.request(), &model).echoing(echo);
        let deadline = began + self.settings().request_timeout;
        let scope = *caller.scope();
        let exchange = Exchange {
            codec,
            about,
            scope,
            model,
            job,
            tools,
            prompt_field,
            format_field,
            delivery,
            began,
            deadline,
        };
        let relayed = self.relay(reply, &exchange, &permit).await; // cache, else a worker; extends the lease as it goes
        let own_bound = permit.own_bound_reached();
        let receipt = permit.settle(outcome(&relayed)).await; // one ledger row, whatever happened
        self.metrics().receipt(&receipt);
        conclude(reply, &exchange, (relayed?, own_bound), &receipt).await?; // the last words, with what it cost
        Ok(Some(receipt))
    }

    /// The job with its tenant's share, as urgent as it asks for and may be, in the conversation it names.
    fn rank(&self, caller: &Caller, reply: &Reply, job: Job) -> Job {
        let said = job.share().priority;
        let asked = (said != Priority::default()).then_some(said);
        let job = job.shared_as(self.catalog().share(caller, asked));
        let Some(session) = reply.request_header("x-tollgate-session") else { return job };
        job.in_session(call::session_number(session))
    }

    fn about(&self, codec: &dyn Codec, request: RequestId, model: &crate::catalog::Model) -> About {
        About::new(codec.id_prefix(), request, self.now().seconds(), model)
    }

    fn observe(&self, reply: &Reply, began: Instant, answered: &Result<Option<Receipt>, Failure>) {
        let outcome = match answered {
            Ok(Some(receipt)) => receipt.entry.outcome.name().to_owned(),
            Ok(None) => "ok".to_owned(),
            Err(failure) => failure.kind().label().to_owned(),
        };
        self.metrics().request(&outcome, began.elapsed());
        let entry = answered.as_ref().ok().and_then(Option::as_ref).map(|receipt| &receipt.entry);
        tracing::info!(
            request = %reply.request(),
            path = reply.path(),
            status = reply.status(),
            outcome,
            error = answered.as_ref().err().map(Failure::cause),
            key = entry.map(|entry| entry.admitted.scope.key.to_string()),
            model = entry.map(|entry| entry.admitted.model.as_str()),
            prompt_tokens = entry.map(|entry| entry.usage.prompt_tokens),
            completion_tokens = entry.map(|entry| entry.usage.completion_tokens),
            gpu_nanos = entry.map(|entry| entry.usage.gpu.nanos()),
            charge_nanos = entry.map(|entry| entry.charge.charge.nanos()),
            took_ms = began.elapsed().as_millis() as u64,
            "request"
        );
    }
}

/// The call with what headers say of it.
fn from_headers(reply: &Reply, call: Call) -> Result<Call, Failure> {
    let (bound, priority) = said(reply)?;
    Ok(call.bounded_by(bound, priority))
}

/// What headers say of a request: its own bound, and how urgent it is.
fn said(reply: &Reply) -> Result<(OwnBound, Option<Priority>), Failure> {
    let header = |name| reply.request_header(name);
    let bound = call::bound_from_headers(
        header("x-tollgate-max-cost-usd"),
        header("x-tollgate-max-gpu-ms"),
    )?;
    Ok((bound, header(PRIORITY_HEADER).map(call::priority_said).transpose()?))
}

fn show_rates(reply: &mut Reply, rates: &Rates) {
    for (unit, state) in [(RateUnit::Requests, rates.requests), (RateUnit::Tokens, rates.tokens)] {
        if let Some(state) = state {
            reply.rate(unit, &state);
        }
    }
}

fn outcome(relayed: &Result<Relayed, Failure>) -> Outcome {
    match relayed {
        Ok(relayed) => relayed.outcome.clone(),
        Err(failure) => Outcome::failed(failure.kind()),
    }
}

/// Says how the answer ended and what it cost. The row is written by now, and the hold is free.
async fn conclude(
    reply: &mut Reply,
    exchange: &Exchange,
    (relayed, own_bound): (Relayed, Option<&'static str>),
    receipt: &Receipt,
) -> Result<(), Failure> {
    let Exchange { codec, about, .. } = exchange;
    let entry = &receipt.entry;
    let end = Ending {
        finish: relayed.finish(),
        usage: entry.usage,
        charge: entry.charge,
        reasoning_tokens: relayed.reasoning_tokens(),
        own_bound,
    };
    match exchange.delivery {
        Delivery::Whole => {
            reply.costs(&end);
            reply.json(200, &codec.whole(about, &relayed.choices, &end)).await
        }
        Delivery::Stream { include_usage } => {
            let (index, last) = relayed.last();
            let mut closing = exchange.decorate(codec.closing(about, index, last));
            if !include_usage {
                // A client that did not ask for another chunk gets none; it may still want the cost.
                closing["usage"] = endpoints::usage(&end);
            }
            let mut last = vec![closing];
            last.extend(last_chunk(exchange, &end, include_usage));
            reply.last_events(&last).await
        }
    }
}

/// The chunk after the closing one: the usage that was asked for, and that the budget ran out.
fn last_chunk(exchange: &Exchange, end: &Ending, include_usage: bool) -> Option<Value> {
    let out_of_budget = end.finish == FinishReason::Budget;
    if !include_usage && !out_of_budget {
        return None;
    }
    let mut last = exchange.codec.bare(&exchange.about);
    last["usage"] = endpoints::usage(end);
    if out_of_budget {
        last["error"] = budget_error(end.own_bound);
    }
    Some(last)
}

#[cfg(test)]
mod tests;

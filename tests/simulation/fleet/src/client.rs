//! Clients: each sends one request, pays as it goes, and holds every token against what must come.

use std::sync::Arc;

use domain::{
    Job, JobParts, NanoUsd, OutputRules, OwnBound, Price, ProjectId, RequestId, Sampling, Share,
};
use routing::{Answer, Piece, RouteError, Router};
use tokio::time::Instant;

use crate::machine::{root, token};
use crate::outcome::{Ended, Failure};
use crate::scenario::model;
use crate::trace::Arrival;

/// Sends a request and reads its answer to the end; what must not be is said in words.
pub(crate) async fn ask(
    router: &Arc<Router>,
    number: usize,
    arrival: &Arrival,
) -> (Ended, Vec<String>) {
    let began = Instant::now();
    let mut ended = Ended {
        first_token_in: None,
        took: std::time::Duration::ZERO,
        tokens: 0,
        cached_tokens: 0,
        cost: NanoUsd::ZERO,
        workers: 0,
        worker: String::new(),
        tenant: arrival.tenant,
        failure: None,
    };
    let mut complaints = Vec::new();
    let job = match job(number, arrival) {
        Ok(job) => job,
        Err(error) => return (ended, vec![format!("request {number}: {error}")]),
    };
    let paid = arrival.output.min(SLICE);
    let failure = match router.dispatch(&job, paid).await {
        Ok(mut answer) => {
            let read = read(&mut answer, arrival, paid, &mut ended, &mut complaints).await;
            let used = answer.used();
            ended.cached_tokens = used.usage.cached_tokens;
            ended.cost = used.cost;
            ended.workers = answer.work().len();
            answer.worker().clone_into(&mut ended.worker);
            read.err()
        }
        Err(error) => Some(error),
    };
    ended.took = began.elapsed();
    ended.failure = failure.map(|error| failed(&error));
    for complaint in &mut complaints {
        *complaint = format!("request {number} on {}: {complaint}", ended.worker);
    }
    (ended, complaints)
}

async fn read(
    answer: &mut Answer,
    arrival: &Arrival,
    mut paid: u32,
    ended: &mut Ended,
    complaints: &mut Vec<String>,
) -> Result<(), RouteError> {
    let (began, root) = (Instant::now() - ended.took, root(&arrival.prompt));
    loop {
        match answer.next().await? {
            Piece::Tokens { ids, .. } => {
                ended.first_token_in.get_or_insert(began.elapsed());
                for id in ids {
                    if id != token(root, ended.tokens, model().vocabulary) {
                        complaints.push(format!("token {} is another one", ended.tokens));
                    }
                    ended.tokens += 1;
                }
                if ended.tokens + SLICE / 2 >= paid && paid < arrival.output {
                    paid = (ended.tokens + SLICE).min(arrival.output);
                    answer.extend(paid);
                }
            }
            Piece::Finished(reason) => {
                let whole = ended.tokens == arrival.output;
                if reason != domain::FinishReason::Length || !whole {
                    let (tokens, reason) = (ended.tokens, reason.name());
                    complaints.push(format!("it ended after {tokens} tokens: {reason}"));
                }
                return Ok(());
            }
        }
    }
}

fn failed(error: &RouteError) -> Failure {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    let full = matches!(error, RouteError::Full { .. });
    Failure { words: format!("{error}{}", cause.unwrap_or_default()), full }
}

fn job(number: usize, arrival: &Arrival) -> Result<Job, domain::JobError> {
    let model = model();
    let tenant = ProjectId::from_u128(arrival.tenant);
    Job::new(JobParts {
        request: RequestId::from_u128(number as u128),
        context_length: model.context_length,
        model: model.name,
        digest: model.digest,
        prompt: Arc::clone(&arrival.prompt),
        max_output: Some(arrival.output),
        choices: 1,
        sampling: Sampling::greedy(),
        output: OutputRules::default(),
        stop: Vec::new(),
        share: Share { priority: arrival.priority, ..Share::of(tenant) },
        reproducible: true,
        price: Price::GpuTime { per_hour: NanoUsd::from_dollars(1), markup_percent: 100 },
        bound: OwnBound::default(),
    })
}

/// Tokens that are paid for at a time.
const SLICE: u32 = 64;

//! Domain nouns to wire messages and back. Nothing here decides anything.
//!
//! What a peer sends is checked on the way in: a malformed message is [`WorkerError::Invalid`],
//! never a panic.

use std::time::Duration;

use domain::{
    Accounts, Capacity, FinishReason, GpuTime, Logprobs, ModelDigest, ModelFiles, ModelInfo,
    ModelKind, ModelName, NanoUsd, Rent, Stage, Times, Usage,
};
use tonic::{Code, Status};

use crate::contract::{Event, WorkerError, WorkerState};
use crate::convert_load::{not_loaded, why_not_loaded};
use crate::wire;

impl From<FinishReason> for wire::FinishReason {
    fn from(reason: FinishReason) -> Self {
        match reason {
            FinishReason::Stop => Self::Stop,
            FinishReason::Length => Self::Length,
            FinishReason::Budget => Self::Budget,
            FinishReason::Cancelled => Self::Cancelled,
        }
    }
}

/// A finish reason from the wire, which may be one we do not know.
pub(crate) fn finish_reason(number: i32) -> Result<FinishReason, WorkerError> {
    match wire::FinishReason::try_from(number) {
        Ok(wire::FinishReason::Stop) => Ok(FinishReason::Stop),
        Ok(wire::FinishReason::Length) => Ok(FinishReason::Length),
        Ok(wire::FinishReason::Budget) => Ok(FinishReason::Budget),
        Ok(wire::FinishReason::Cancelled) => Ok(FinishReason::Cancelled),
        Ok(wire::FinishReason::Unspecified) | Err(_) => Err(invalid("unknown finish reason")),
    }
}

impl From<Event> for wire::GenerateResponse {
    fn from(event: Event) -> Self {
        use wire::generate_response::Kind;
        let kind = match event {
            Event::Tokens { first, ids, gpu, logprobs, cached } => Kind::Tokens(wire::Tokens {
                first,
                ids,
                gpu_nanos: gpu.nanos(),
                logprobs: logprobs.into_iter().map(Into::into).collect(),
                cached,
            }),
            Event::HandedOver { usage } => {
                Kind::HandedOver(wire::HandedOver { usage: Some(usage.into()) })
            }
            Event::Finished { reason, usage } => Kind::Finished(wire::Finished {
                reason: wire::FinishReason::from(reason).into(),
                usage: Some(usage.into()),
            }),
            Event::Failed { error, usage } => Kind::Failed(wire::Failed {
                of_format: matches!(error, WorkerError::Format(_)),
                // Whoever reads it says again that the worker failed.
                message: match error {
                    WorkerError::Failed(reason) | WorkerError::Format(reason) => reason,
                    other => other.to_string(),
                },
                usage: usage.map(Into::into),
            }),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<wire::GenerateResponse> for Event {
    type Error = WorkerError;

    fn try_from(response: wire::GenerateResponse) -> Result<Self, WorkerError> {
        use wire::generate_response::Kind;
        match response.kind.ok_or_else(|| invalid("empty response"))? {
            Kind::Tokens(tokens) => {
                if !tokens.logprobs.is_empty() && tokens.logprobs.len() != tokens.ids.len() {
                    return Err(invalid("tokens.logprobs must be one for each id, or none"));
                }
                Ok(Self::Tokens {
                    first: tokens.first,
                    ids: tokens.ids,
                    gpu: GpuTime::from_nanos(tokens.gpu_nanos),
                    logprobs: tokens.logprobs.into_iter().map(Into::into).collect(),
                    cached: tokens.cached,
                })
            }
            Kind::HandedOver(handed) => Ok(Self::HandedOver {
                usage: handed.usage.ok_or_else(|| invalid("handed_over.usage is missing"))?.into(),
            }),
            Kind::Finished(finished) => Ok(Self::Finished {
                reason: finish_reason(finished.reason)?,
                usage: finished.usage.ok_or_else(|| invalid("finished.usage is missing"))?.into(),
            }),
            Kind::Failed(failed) => Ok(Self::Failed {
                error: if failed.of_format {
                    WorkerError::Format(failed.message)
                } else {
                    WorkerError::Failed(failed.message)
                },
                usage: failed.usage.map(Into::into),
            }),
        }
    }
}

impl From<Logprobs> for wire::Logprobs {
    fn from(Logprobs { logprob, top }: Logprobs) -> Self {
        let top = top.into_iter().map(|(token, logprob)| wire::TopLogprob { token, logprob });
        Self { logprob, top: top.collect() }
    }
}

impl From<wire::Logprobs> for Logprobs {
    fn from(wire::Logprobs { logprob, top }: wire::Logprobs) -> Self {
        Self { logprob, top: top.into_iter().map(|top| (top.token, top.logprob)).collect() }
    }
}

impl From<Usage> for wire::Usage {
    fn from(usage: Usage) -> Self {
        let Usage { prompt_tokens, cached_tokens, completion_tokens, gpu, times } = usage;
        let times = Some(times.into());
        Self { prompt_tokens, cached_tokens, completion_tokens, gpu_nanos: gpu.nanos(), times }
    }
}

impl From<wire::Usage> for Usage {
    fn from(usage: wire::Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            cached_tokens: usage.cached_tokens,
            completion_tokens: usage.completion_tokens,
            gpu: GpuTime::from_nanos(usage.gpu_nanos),
            times: usage.times.unwrap_or_default().into(),
        }
    }
}

impl From<Times> for wire::Times {
    fn from(times: Times) -> Self {
        let Times { queue, prefill, decode, recompute, saved } = times;
        Self {
            queue_nanos: queue.nanos(),
            prefill_nanos: prefill.nanos(),
            decode_nanos: decode.nanos(),
            recompute_nanos: recompute.nanos(),
            saved_nanos: saved.nanos(),
        }
    }
}

impl From<wire::Times> for Times {
    fn from(times: wire::Times) -> Self {
        Self {
            queue: GpuTime::from_nanos(times.queue_nanos),
            prefill: GpuTime::from_nanos(times.prefill_nanos),
            decode: GpuTime::from_nanos(times.decode_nanos),
            recompute: GpuTime::from_nanos(times.recompute_nanos),
            saved: GpuTime::from_nanos(times.saved_nanos),
        }
    }
}

impl From<WorkerState> for wire::WorkerState {
    fn from(state: WorkerState) -> Self {
        let WorkerState {
            incarnation,
            models,
            free_blocks,
            total_blocks,
            running,
            waiting,
            stage,
            leaves_in,
            at_risk,
            zone,
            block_tokens,
            block_bytes,
            running_tokens,
            waiting_tokens,
            first_token_in,
            prompt_token_time,
            step_time,
            price_per_hour,
            capacity,
            loads,
            accounts,
            attribution_error_ppm,
            drafted_tokens,
            accepted_tokens,
        } = state;
        Self {
            incarnation: incarnation.to_string(),
            models: models.into_iter().map(Into::into).collect(),
            free_blocks,
            total_blocks,
            running,
            waiting,
            stage: wire::Stage::from(stage).into(),
            leaves_in_millis: leaves_in.map(millis),
            at_risk,
            zone,
            block_tokens,
            block_bytes,
            running_tokens,
            waiting_tokens,
            first_token_nanos: nanos(first_token_in),
            prompt_token_nanos: nanos(prompt_token_time),
            step_nanos: nanos(step_time),
            price_per_hour_nanos: price_per_hour.nanos(),
            capacity: wire::Capacity::from(capacity).into(),
            accounts: Some(accounts.into()),
            attribution_error_ppm,
            drafted_tokens,
            accepted_tokens,
            loads: loads.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::WorkerState> for WorkerState {
    type Error = WorkerError;

    fn try_from(state: wire::WorkerState) -> Result<Self, WorkerError> {
        Ok(Self {
            incarnation: state.incarnation.parse().map_err(|error| invalid(&format!("{error}")))?,
            models: state.models.into_iter().map(Into::into).collect(),
            free_blocks: state.free_blocks,
            total_blocks: state.total_blocks,
            running: state.running,
            waiting: state.waiting,
            stage: stage(state.stage)?,
            leaves_in: state.leaves_in_millis.map(Duration::from_millis),
            at_risk: state.at_risk,
            zone: state.zone,
            block_tokens: state.block_tokens,
            block_bytes: state.block_bytes,
            running_tokens: state.running_tokens,
            waiting_tokens: state.waiting_tokens,
            first_token_in: Duration::from_nanos(state.first_token_nanos),
            prompt_token_time: Duration::from_nanos(state.prompt_token_nanos),
            step_time: Duration::from_nanos(state.step_nanos),
            price_per_hour: NanoUsd::from_nanos(state.price_per_hour_nanos),
            capacity: capacity(state.capacity)?,
            loads: state.loads.into_iter().map(Into::into).collect(),
            accounts: state.accounts.unwrap_or_default().into(),
            attribution_error_ppm: state.attribution_error_ppm,
            drafted_tokens: state.drafted_tokens,
            accepted_tokens: state.accepted_tokens,
        })
    }
}

impl From<Accounts> for wire::Accounts {
    fn from(accounts: Accounts) -> Self {
        let Accounts { requests, idle, overhead, preemption, migration, abandoned, hedge, wall } =
            accounts;
        Self {
            requests_nanos: requests.nanos(),
            idle_nanos: idle.nanos(),
            overhead_nanos: overhead.nanos(),
            wall_nanos: wall.nanos(),
            preemption_nanos: preemption.nanos(),
            migration_nanos: migration.nanos(),
            abandoned_nanos: abandoned.nanos(),
            hedge_nanos: hedge.nanos(),
        }
    }
}

impl From<wire::Accounts> for Accounts {
    fn from(accounts: wire::Accounts) -> Self {
        Self {
            requests: GpuTime::from_nanos(accounts.requests_nanos),
            idle: GpuTime::from_nanos(accounts.idle_nanos),
            overhead: GpuTime::from_nanos(accounts.overhead_nanos),
            preemption: GpuTime::from_nanos(accounts.preemption_nanos),
            migration: GpuTime::from_nanos(accounts.migration_nanos),
            abandoned: GpuTime::from_nanos(accounts.abandoned_nanos),
            hedge: GpuTime::from_nanos(accounts.hedge_nanos),
            wall: GpuTime::from_nanos(accounts.wall_nanos),
        }
    }
}

impl From<Capacity> for wire::Capacity {
    fn from(capacity: Capacity) -> Self {
        match capacity {
            Capacity::OnDemand => Self::OnDemand,
            Capacity::Spot => Self::Spot,
        }
    }
}

/// Terms from the wire, which may be some we do not know.
fn capacity(number: i32) -> Result<Capacity, WorkerError> {
    match wire::Capacity::try_from(number) {
        Ok(wire::Capacity::OnDemand) => Ok(Capacity::OnDemand),
        Ok(wire::Capacity::Spot) => Ok(Capacity::Spot),
        Ok(wire::Capacity::Unspecified) | Err(_) => Err(invalid("unknown capacity")),
    }
}

impl From<Stage> for wire::Stage {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Serving => Self::Serving,
            Stage::Draining => Self::Draining,
            Stage::Evacuating => Self::Evacuating,
        }
    }
}

/// A stage from the wire, which may be one we do not know.
fn stage(number: i32) -> Result<Stage, WorkerError> {
    match wire::Stage::try_from(number) {
        Ok(wire::Stage::Serving) => Ok(Stage::Serving),
        Ok(wire::Stage::Draining) => Ok(Stage::Draining),
        Ok(wire::Stage::Evacuating) => Ok(Stage::Evacuating),
        Ok(wire::Stage::Unspecified) | Err(_) => Err(invalid("unknown stage")),
    }
}

pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl From<Rent> for wire::SetPriceRequest {
    fn from(rent: Rent) -> Self {
        Self {
            price_per_hour_nanos: rent.per_hour().nanos(),
            capacity: wire::Capacity::from(rent.capacity()).into(),
        }
    }
}

impl TryFrom<wire::SetPriceRequest> for Rent {
    type Error = WorkerError;

    fn try_from(request: wire::SetPriceRequest) -> Result<Self, WorkerError> {
        let per_hour = NanoUsd::from_nanos(request.price_per_hour_nanos);
        Self::new(per_hour, capacity(request.capacity)?)
            .ok_or_else(|| invalid("the price is negative"))
    }
}

impl From<ModelInfo> for wire::ModelInfo {
    fn from(info: ModelInfo) -> Self {
        let ModelInfo { name, digest, context_length, vocabulary, stop_tokens, weights, kind } =
            info;
        let dimensions = match kind {
            ModelKind::Text => None,
            ModelKind::Embedding { dimensions } => Some(dimensions),
        };
        Self {
            dimensions,
            name: name.as_str().to_owned(),
            digest: digest.as_str().to_owned(),
            context_length,
            vocabulary,
            stop_tokens,
            weights,
        }
    }
}

impl From<wire::ModelInfo> for ModelInfo {
    fn from(info: wire::ModelInfo) -> Self {
        Self {
            name: ModelName::new(info.name),
            digest: ModelDigest::new(info.digest),
            context_length: info.context_length,
            vocabulary: info.vocabulary,
            stop_tokens: info.stop_tokens,
            weights: info.weights,
            kind: info
                .dimensions
                .map_or(ModelKind::Text, |dimensions| ModelKind::Embedding { dimensions }),
        }
    }
}

impl From<ModelFiles> for wire::ModelFilesResponse {
    fn from(files: ModelFiles) -> Self {
        Self {
            tokenizer: files.tokenizer.to_vec(),
            chat_template: files.chat_template.map(|template| template.to_string()),
        }
    }
}

impl From<wire::ModelFilesResponse> for ModelFiles {
    fn from(files: wire::ModelFilesResponse) -> Self {
        Self {
            tokenizer: files.tokenizer.into(),
            chat_template: files.chat_template.map(Into::into),
        }
    }
}

impl From<WorkerError> for Status {
    fn from(error: WorkerError) -> Self {
        let message = error.to_string();
        match error {
            WorkerError::Full { retry_in } => {
                let mut status = Self::resource_exhausted(message);
                let millis = u64::try_from(retry_in.as_millis()).unwrap_or(u64::MAX);
                status.metadata_mut().insert(RETRY_IN, millis.into());
                status
            }
            WorkerError::Draining => Self::unavailable(DRAINING),
            WorkerError::ModelNotFound(digest) => Self::not_found(digest.as_str()),
            WorkerError::Invalid(reason) => Self::invalid_argument(reason),
            WorkerError::TooLong(reason) => {
                let mut status = Self::invalid_argument(reason);
                status.metadata_mut().insert(TOO_LONG, 1.into());
                status
            }
            WorkerError::Format(reason) => Self::failed_precondition(reason),
            WorkerError::Unreachable(reason) => Self::unavailable(reason),
            WorkerError::Failed(reason) => Self::internal(reason),
            WorkerError::NotLoaded { why, message } => not_loaded(why, message),
        }
    }
}

impl From<Status> for WorkerError {
    fn from(status: Status) -> Self {
        let message = status.message().to_owned();
        if let Some(why) = why_not_loaded(&status) {
            return Self::NotLoaded { why, message };
        }
        match status.code() {
            Code::ResourceExhausted => Self::Full { retry_in: retry_in(&status) },
            Code::Unavailable if message == DRAINING => Self::Draining,
            Code::NotFound => Self::ModelNotFound(ModelDigest::new(message)),
            Code::InvalidArgument if status.metadata().contains_key(TOO_LONG) => {
                Self::TooLong(message)
            }
            Code::InvalidArgument => Self::Invalid(message),
            Code::FailedPrecondition => Self::Format(message),
            Code::Internal => Self::Failed(message),
            code => Self::Unreachable(format!("{code}: {message}{}", causes(&status))),
        }
    }
}

/// Why a connection failed, as far as the message does not say it: that a certificate was refused, for example.
fn causes(status: &Status) -> String {
    let mut told = status.message().to_owned();
    let mut causes = String::new();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let text = error.to_string();
        if !told.contains(&text) {
            causes.push_str(": ");
            causes.push_str(&text);
            told.push_str(&text);
        }
        cause = error.source();
    }
    causes
}

/// When a full worker asked to be tried again.
fn retry_in(status: &Status) -> Duration {
    let millis = status.metadata().get(RETRY_IN).and_then(|value| value.to_str().ok());
    millis.and_then(|text| text.parse().ok()).map_or(DEFAULT_RETRY_IN, Duration::from_millis)
}

pub(crate) fn invalid(reason: &str) -> WorkerError {
    WorkerError::Invalid(reason.to_owned())
}

const RETRY_IN: &str = "retry-in-ms";
const TOO_LONG: &str = "too-long";
const DRAINING: &str = "draining";
const DEFAULT_RETRY_IN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_reads_back_in_the_words_it_was_sent_in() {
        for error in [WorkerError::Failed("of itself".into()), WorkerError::Format("none".into())] {
            let failed = Event::Failed { error, usage: None };
            assert_eq!(Event::try_from(wire::GenerateResponse::from(failed.clone())), Ok(failed));
        }
    }

    #[test]
    fn a_sequence_that_is_too_long_is_told_from_one_that_is_wrong() {
        for error in [WorkerError::TooLong("at most 64".into()), WorkerError::Invalid("no".into())]
        {
            assert_eq!(WorkerError::from(Status::from(error.clone())), error);
        }
    }

    #[test]
    fn a_state_reads_back_as_it_was_sent() {
        let nanos = GpuTime::from_nanos;
        let load =
            crate::ModelLoad { running: 5, waiting_tokens: 6, ..crate::ModelLoad::default() };
        let state = WorkerState {
            incarnation: domain::IncarnationId::generate(),
            price_per_hour: NanoUsd::from_dollars(3),
            capacity: Capacity::Spot,
            accounts: Accounts {
                requests: nanos(1),
                idle: nanos(2),
                overhead: nanos(3),
                preemption: nanos(4),
                migration: nanos(5),
                abandoned: nanos(6),
                hedge: nanos(7),
                wall: nanos(28),
            },
            attribution_error_ppm: 41_000,
            drafted_tokens: 9,
            accepted_tokens: 8,
            running: 7,
            stage: Stage::Evacuating,
            leaves_in: Some(Duration::from_millis(1_500)),
            at_risk: true,
            zone: "eu-1".to_owned(),
            block_tokens: 32,
            block_bytes: 4096,
            running_tokens: 8,
            waiting_tokens: 9,
            first_token_in: Duration::from_nanos(10),
            prompt_token_time: Duration::from_nanos(11),
            step_time: Duration::from_nanos(12),
            loads: vec![(vec![ModelDigest::new("a"), ModelDigest::new("b")], load)],
            ..WorkerState::default()
        };

        let read = WorkerState::try_from(wire::WorkerState::from(state.clone()));

        assert_eq!(read, Ok(state));
    }

    #[test]
    fn what_no_worker_would_say_is_refused() {
        let said = wire::WorkerState::from(WorkerState::default());
        let nameless = wire::WorkerState { incarnation: String::new(), ..said.clone() };
        let homeless = wire::WorkerState { capacity: 0, ..said.clone() };
        let nowhere = wire::WorkerState { stage: 0, ..said };
        for state in [nameless, homeless, nowhere] {
            let refused = WorkerState::try_from(state);
            assert!(matches!(refused, Err(WorkerError::Invalid(_))), "{refused:?}");
        }
    }

    #[test]
    fn a_price_below_nothing_is_refused() {
        let spot = wire::Capacity::Spot.into();
        let asked =
            |price_per_hour_nanos| wire::SetPriceRequest { price_per_hour_nanos, capacity: spot };

        assert!(Rent::try_from(asked(0)).is_ok());
        assert!(Rent::try_from(asked(-1)).is_err());
    }
}

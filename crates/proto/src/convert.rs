//! Domain nouns to wire messages and back. Nothing here decides anything.
//!
//! What a peer sends is checked on the way in: a malformed message is [`WorkerError::Invalid`],
//! never a panic.

use std::time::Duration;

use domain::{
    Accounts, Capacity, FinishReason, GpuTime, ModelDigest, ModelFiles, ModelInfo, ModelName,
    NanoUsd, Rent, Sampling, Times, Usage,
};
use tonic::{Code, Status};

use crate::contract::{Event, Start, WorkerError, WorkerState};
use crate::wire;

impl From<Start> for wire::Start {
    fn from(start: Start) -> Self {
        let Start { request, model, prompt, generated, max_output, allowance, sampling } = start;
        Self {
            request_id: request.to_string(),
            model_digest: model.as_str().to_owned(),
            prompt: prompt.to_vec(),
            generated,
            max_output,
            allowance,
            sampling: Some(sampling.into()),
        }
    }
}

impl TryFrom<wire::Start> for Start {
    type Error = WorkerError;

    fn try_from(start: wire::Start) -> Result<Self, WorkerError> {
        let sampling = start.sampling.ok_or_else(|| invalid("start.sampling is missing"))?;
        Ok(Self {
            request: start.request_id.parse().map_err(|error| invalid(&format!("{error}")))?,
            model: ModelDigest::new(start.model_digest),
            prompt: start.prompt.into(),
            generated: start.generated,
            max_output: start.max_output,
            allowance: start.allowance,
            sampling: sampling.try_into()?,
        })
    }
}

impl From<Sampling> for wire::Sampling {
    fn from(sampling: Sampling) -> Self {
        let Sampling {
            temperature,
            top_p,
            top_k,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            logit_bias,
            seed,
        } = sampling;
        let logit_bias =
            logit_bias.into_iter().map(|(token, bias)| wire::LogitBias { token, bias }).collect();
        Self {
            temperature,
            top_p,
            top_k,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            logit_bias,
            seed,
        }
    }
}

impl TryFrom<wire::Sampling> for Sampling {
    type Error = WorkerError;

    fn try_from(sampling: wire::Sampling) -> Result<Self, WorkerError> {
        let numbers = [
            sampling.temperature,
            sampling.top_p,
            sampling.min_p,
            sampling.repetition_penalty,
            sampling.presence_penalty,
            sampling.frequency_penalty,
        ];
        if numbers.iter().any(|number| !number.is_finite()) {
            return Err(invalid("start.sampling has a value that is not finite"));
        }
        Ok(Self {
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            top_k: sampling.top_k,
            min_p: sampling.min_p,
            repetition_penalty: sampling.repetition_penalty,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            logit_bias: sampling
                .logit_bias
                .into_iter()
                .map(|bias| (bias.token, bias.bias))
                .collect(),
            seed: sampling.seed,
        })
    }
}

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
            Event::Tokens { first, ids, gpu } => {
                Kind::Tokens(wire::Tokens { first, ids, gpu_nanos: gpu.nanos() })
            }
            Event::Finished { reason, usage } => Kind::Finished(wire::Finished {
                reason: wire::FinishReason::from(reason).into(),
                usage: Some(usage.into()),
            }),
            Event::Failed { error, usage } => Kind::Failed(wire::Failed {
                message: error.to_string(),
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
            Kind::Tokens(tokens) => Ok(Self::Tokens {
                first: tokens.first,
                ids: tokens.ids,
                gpu: GpuTime::from_nanos(tokens.gpu_nanos),
            }),
            Kind::Finished(finished) => Ok(Self::Finished {
                reason: finish_reason(finished.reason)?,
                usage: finished.usage.ok_or_else(|| invalid("finished.usage is missing"))?.into(),
            }),
            Kind::Failed(failed) => Ok(Self::Failed {
                error: WorkerError::Failed(failed.message),
                usage: failed.usage.map(Into::into),
            }),
        }
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
            draining,
            price_per_hour,
            capacity,
            accounts,
            attribution_error_ppm,
        } = state;
        Self {
            incarnation: incarnation.to_string(),
            models: models.into_iter().map(Into::into).collect(),
            free_blocks,
            total_blocks,
            running,
            waiting,
            draining,
            price_per_hour_nanos: price_per_hour.nanos(),
            capacity: wire::Capacity::from(capacity).into(),
            accounts: Some(accounts.into()),
            attribution_error_ppm,
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
            draining: state.draining,
            price_per_hour: NanoUsd::from_nanos(state.price_per_hour_nanos),
            capacity: capacity(state.capacity)?,
            accounts: state.accounts.unwrap_or_default().into(),
            attribution_error_ppm: state.attribution_error_ppm,
        })
    }
}

impl From<Accounts> for wire::Accounts {
    fn from(accounts: Accounts) -> Self {
        let Accounts { requests, idle, overhead, preemption, migration, abandoned, wall } =
            accounts;
        Self {
            requests_nanos: requests.nanos(),
            idle_nanos: idle.nanos(),
            overhead_nanos: overhead.nanos(),
            wall_nanos: wall.nanos(),
            preemption_nanos: preemption.nanos(),
            migration_nanos: migration.nanos(),
            abandoned_nanos: abandoned.nanos(),
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
        let ModelInfo { name, digest, context_length, vocabulary, stop_tokens, weights } = info;
        Self {
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
            WorkerError::Unreachable(reason) => Self::unavailable(reason),
            WorkerError::Failed(reason) => Self::internal(reason),
        }
    }
}

impl From<Status> for WorkerError {
    fn from(status: Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            Code::ResourceExhausted => Self::Full { retry_in: retry_in(&status) },
            Code::Unavailable if message == DRAINING => Self::Draining,
            Code::NotFound => Self::ModelNotFound(ModelDigest::new(message)),
            Code::InvalidArgument => Self::Invalid(message),
            Code::Internal => Self::Failed(message),
            code => Self::Unreachable(format!("{code}: {message}")),
        }
    }
}

/// When a full worker asked to be tried again.
fn retry_in(status: &Status) -> Duration {
    let millis = status.metadata().get(RETRY_IN).and_then(|value| value.to_str().ok());
    millis.and_then(|text| text.parse().ok()).map_or(DEFAULT_RETRY_IN, Duration::from_millis)
}

fn invalid(reason: &str) -> WorkerError {
    WorkerError::Invalid(reason.to_owned())
}

const RETRY_IN: &str = "retry-in-ms";
const DRAINING: &str = "draining";
const DEFAULT_RETRY_IN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_reads_back_as_it_was_sent() {
        let nanos = GpuTime::from_nanos;
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
                wall: nanos(21),
            },
            attribution_error_ppm: 41_000,
            running: 7,
            ..WorkerState::default()
        };

        let read = WorkerState::try_from(wire::WorkerState::from(state.clone()));

        assert_eq!(read, Ok(state));
    }

    #[test]
    fn what_no_worker_would_say_is_refused() {
        let said = wire::WorkerState::from(WorkerState::default());
        let nameless = wire::WorkerState { incarnation: String::new(), ..said.clone() };
        let homeless = wire::WorkerState { capacity: 0, ..said };
        for state in [nameless, homeless] {
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

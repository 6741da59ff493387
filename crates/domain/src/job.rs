//! One request that may run: the model exists, the prompt is in tokens, the output is bounded.

use std::sync::Arc;

use crate::{
    GpuTime, ModelDigest, ModelName, NanoUsd, OutputRules, Price, RequestId, Sampling, Share,
};

/// Everything a [`Job`] is made of.
#[derive(Clone, Debug)]
pub struct JobParts {
    /// The request this job answers.
    pub request: RequestId,
    /// The model to run.
    pub model: ModelName,
    /// Its exact version, as resolved when the request came.
    pub digest: ModelDigest,
    /// Longest prompt plus output of that model, in tokens.
    pub context_length: u32,
    /// The prompt, in tokens.
    pub prompt: Arc<[u32]>,
    /// Most tokens to produce, if the caller said so. The context bounds it in any case.
    pub max_output: Option<u32>,
    /// How many sequences answer it, each drawn by itself. At least 1.
    pub choices: u32,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// What is asked of the output beside that.
    pub output: OutputRules,
    /// Texts that end the output; they are not part of it.
    pub stop: Vec<String>,
    /// For whom it runs, and how urgent it is.
    pub share: Share,
    /// The same job would give the same tokens again: greedy, or seeded by the caller.
    pub reproducible: bool,
    /// What the tenant pays.
    pub price: Price,
    /// The most that the caller wants to spend on it.
    pub bound: OwnBound,
}

/// The most that a caller wants to spend on one request. Absent means no bound of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnBound {
    /// Money charged.
    pub money: Option<NanoUsd>,
    /// GPU time attributed.
    pub gpu: Option<GpuTime>,
}

/// A job that can be priced, held and dispatched. Made only by [`Job::new`].
#[derive(Clone, Debug)]
pub struct Job {
    parts: JobParts,
    max_output: u32,
    session: Option<u64>,
}

/// Why the parts are not a job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// Nothing to continue from.
    #[error("the prompt is empty; send at least one token of text")]
    EmptyPrompt,
    /// Prompt and requested output do not fit the model.
    #[error(
        "this model's maximum context length is {context_length} tokens, but {prompt} were sent in the prompt and {output} asked for; shorten the prompt or the output"
    )]
    ContextExceeded {
        /// The model's limit.
        context_length: u32,
        /// Tokens in the prompt.
        prompt: usize,
        /// Tokens asked for, at least 1.
        output: u32,
    },
}

impl Job {
    /// Checks that prompt and output fit the model, and bounds the output by the context.
    pub fn new(parts: JobParts) -> Result<Self, JobError> {
        if parts.prompt.is_empty() {
            return Err(JobError::EmptyPrompt);
        }
        let output = parts.max_output.unwrap_or(1);
        let room = u32::try_from(parts.prompt.len())
            .ok()
            .and_then(|prompt| parts.context_length.checked_sub(prompt))
            .unwrap_or(0);
        if output > room {
            return Err(JobError::ContextExceeded {
                context_length: parts.context_length,
                prompt: parts.prompt.len(),
                output,
            });
        }
        let max_output = parts.max_output.unwrap_or(room);
        Ok(Self { parts, max_output, session: None })
    }

    /// A job that reads all of its prompt and produces no token: texts to embed, one after the other. Each of them
    /// has a context of its own, so that whoever makes it sees to that they fit.
    pub fn embedding(parts: JobParts) -> Result<Self, JobError> {
        if parts.prompt.is_empty() {
            return Err(JobError::EmptyPrompt);
        }
        Ok(Self { parts, max_output: 0, session: None })
    }

    /// The same job, run with this share.
    #[must_use]
    pub fn shared_as(self, share: Share) -> Self {
        Self { parts: JobParts { share, ..self.parts }, ..self }
    }

    /// The same job, as part of this conversation of its tenant.
    #[must_use]
    pub fn in_session(self, session: u64) -> Self {
        Self { session: Some(session), ..self }
    }

    /// A number for the conversation it is part of, within its tenant's; the tenant's own if none is known.
    pub fn session(&self) -> u64 {
        let tenant = self.parts.share.tenant;
        let [low, high] = [&tenant.as_bytes()[..8], &tenant.as_bytes()[8..]]
            .map(|half| half.iter().fold(0_u64, |all, byte| all << 8 | u64::from(*byte)));
        low ^ high.rotate_left(32) ^ self.session.unwrap_or(0)
    }

    /// The request this job answers.
    pub const fn request(&self) -> RequestId {
        self.parts.request
    }

    /// The model to run.
    pub const fn model(&self) -> &ModelName {
        &self.parts.model
    }

    /// The exact version of the model.
    pub const fn digest(&self) -> &ModelDigest {
        &self.parts.digest
    }

    /// The prompt, in tokens.
    pub const fn prompt(&self) -> &Arc<[u32]> {
        &self.parts.prompt
    }

    /// Tokens in the prompt.
    pub fn prompt_tokens(&self) -> u32 {
        u32::try_from(self.parts.prompt.len()).unwrap_or(u32::MAX)
    }

    /// Most tokens to produce: prompt plus this fits the context. At least 1, or 0 if it produces none at all.
    pub const fn max_output(&self) -> u32 {
        self.max_output
    }

    /// How many sequences answer it; at least 1.
    pub fn choices(&self) -> u32 {
        self.parts.choices.max(1)
    }

    /// Most tokens that all of its sequences produce together.
    pub fn total_output(&self) -> u32 {
        self.max_output.saturating_mul(self.choices())
    }

    /// The fewest tokens that it is sure to need: one of each sequence, or none if it produces none.
    pub fn least_output(&self) -> u32 {
        self.choices().min(self.total_output())
    }

    /// The job of one of its sequences. The first one is what the job would be if it had only that one.
    #[must_use]
    pub fn choice(&self, index: u32) -> Self {
        let sampling = self.parts.sampling.of_choice(index);
        let parts = JobParts { choices: 1, sampling, ..self.parts.clone() };
        Self { parts, max_output: self.max_output, session: self.session }
    }

    /// How tokens are chosen.
    pub const fn sampling(&self) -> &Sampling {
        &self.parts.sampling
    }

    /// What is asked of the output beside how tokens are chosen.
    pub const fn output(&self) -> &OutputRules {
        &self.parts.output
    }

    /// For whom it runs, and how urgent it is.
    pub const fn share(&self) -> Share {
        self.parts.share
    }

    /// What the tenant pays.
    pub const fn price(&self) -> &Price {
        &self.parts.price
    }

    /// The most that the caller wants to spend on it.
    pub const fn bound(&self) -> &OwnBound {
        &self.parts.bound
    }

    /// Whether the same job would give the same tokens again.
    pub const fn reproducible(&self) -> bool {
        self.parts.reproducible
    }

    /// Texts that end the output.
    pub fn stop(&self) -> &[String] {
        &self.parts.stop
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NanoUsd, ProjectId};

    fn parts(prompt: usize, max_output: Option<u32>) -> JobParts {
        JobParts {
            request: RequestId::generate(),
            model: ModelName::new("m"),
            digest: ModelDigest::new("00"),
            context_length: 100,
            prompt: vec![1; prompt].into(),
            max_output,
            choices: 1,
            sampling: Sampling::greedy(),
            output: OutputRules::default(),
            stop: Vec::new(),
            share: Share::of(ProjectId::generate()),
            reproducible: true,
            price: Price::GpuTime { per_hour: NanoUsd::from_dollars(1), markup_percent: 100 },
            bound: OwnBound::default(),
        }
    }

    #[test]
    fn an_unbounded_request_is_bounded_by_the_context() {
        assert_eq!(Job::new(parts(30, None)).unwrap().max_output(), 70);
    }

    #[test]
    fn the_first_of_several_choices_is_the_only_one_of_a_job_that_has_one() {
        let sampling = Sampling { temperature: 1.0, seed: 7, ..Sampling::greedy() };
        let one = Job::new(JobParts { sampling, ..parts(30, Some(10)) }).unwrap();
        let three = Job::new(JobParts { choices: 3, ..one.parts.clone() }).unwrap();
        assert_eq!(three.total_output(), 30);
        assert_eq!(three.choice(0).sampling(), one.sampling());
        let seeds: Vec<u64> = (0..3).map(|index| three.choice(index).sampling().seed).collect();
        assert!(seeds[0] != seeds[1] && seeds[1] != seeds[2] && seeds[0] != seeds[2]);
        assert_eq!(three.choice(2).choices(), 1);
    }

    #[test]
    fn texts_to_embed_need_no_output_and_may_be_longer_together_than_one_of_them() {
        let job = Job::embedding(parts(250, None)).unwrap();
        assert_eq!((job.prompt_tokens(), job.least_output(), job.total_output()), (250, 0, 0));
        assert_eq!(Job::embedding(parts(0, None)).unwrap_err(), JobError::EmptyPrompt);
        assert_eq!(Job::new(parts(1, Some(5))).unwrap().least_output(), 1);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(Job::new(parts(0, None)).unwrap_err(), JobError::EmptyPrompt);
        assert!(Job::new(parts(100, None)).is_err());
        assert!(Job::new(parts(99, None)).is_ok());
        assert!(Job::new(parts(60, Some(41))).is_err());
        assert!(Job::new(parts(60, Some(u32::MAX))).is_err());
        assert!(Job::new(parts(60, Some(40))).is_ok());
    }
}
